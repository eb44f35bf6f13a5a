// Shows the page again when something has changed, unless somebody is typing.
const mark = document.body.dataset.mark;
const typing = () => document.activeElement && document.activeElement.matches("input, textarea");
setInterval(async () => {
  if (document.hidden || typing()) return;
  try {
    const answer = await fetch("/state", { cache: "no-store" });
    if (answer.ok && (await answer.text()) !== mark) location.reload();
  } catch {
    // The shop is away; the next look finds it again.
  }
}, 1500);
