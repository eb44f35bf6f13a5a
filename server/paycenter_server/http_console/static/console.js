// Small conveniences; every page works without them. Loaded in the head, so that the colours are right before the first paint.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  if (!root.dataset.bsTheme) {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => { root.dataset.bsTheme = dark.matches ? "dark" : "light"; };
    follow();
    dark.addEventListener("change", follow);
  }
  // The server shows times in this zone: minutes east of UTC, and the name.
  const zone = `${-new Date().getTimezoneOffset()}.${Intl.DateTimeFormat().resolvedOptions().timeZone || ""}`;
  const kept = document.cookie.split("; ").find((item) => item.startsWith("zone="));
  if (kept !== `zone=${encodeURIComponent(zone)}`) {
    document.cookie = `zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
  }
  document.addEventListener("DOMContentLoaded", () => {
    if (!kept) {
      const pad = (value) => String(value).padStart(2, "0");
      for (const item of document.querySelectorAll("time[datetime]")) {
        const at = new Date(item.dateTime);
        item.textContent = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ` +
          `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
      }
    }
    for (const select of document.querySelectorAll("select[name=range]")) {
      const show = () => {
        for (const field of select.form.querySelectorAll(".when")) field.hidden = select.value !== "custom";
      };
      select.addEventListener("change", show);
      show();
    }
    for (const form of document.querySelectorAll("form[data-mode]")) {
      const mode = form.querySelector(`[name="${form.dataset.mode}"]`), account = form.querySelector("[name=account_id]");
      const show = () => {
        for (const part of form.querySelectorAll("[data-when], [data-of-account]")) {
          part.hidden = (part.dataset.when && mode && part.dataset.when !== mode.value) || ("ofAccount" in part.dataset && account?.value);
        }
      };
      mode?.addEventListener("change", show);
      account?.addEventListener("change", show);
      show();
    }
    draw();
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("copy")) {
      const source = button.dataset.copy ? document.getElementById(button.dataset.copy) : button.previousElementSibling;
      await navigator.clipboard?.writeText(source.textContent.trim());
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1200);
    }
    for (const open of document.querySelectorAll("header details[open]")) {
      if (!open.contains(event.target)) open.open = false;
    }
    if (!event.target.closest(".search")) document.getElementById("found")?.replaceChildren();
  });
  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.confirm;
    if (question && !confirm(question)) { event.preventDefault(); return; }
    // A second click sends nothing more. Not at once: the name of the button belongs to the form.
    setTimeout(() => { if (event.submitter && !event.defaultPrevented && !("download" in event.target.dataset)) event.submitter.disabled = true; });
  });
  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("button:disabled:not([data-off])")) button.disabled = false;
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key === "Escape") {
      for (const open of document.querySelectorAll("header details[open]")) open.open = false;
      document.getElementById("found")?.replaceChildren();
      typing?.blur();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search")?.focus();
    } else if (event.key === "j" || event.key === "k") {
      const rows = [...document.querySelectorAll("table.rows tbody tr a.row-link")];
      if (!rows.length) return;
      const at = rows.indexOf(document.activeElement);
      rows[Math.min(Math.max(event.key === "j" ? at + 1 : at - 1, 0), rows.length - 1)].focus();
    }
  });
  function draw() {
    const canvas = document.querySelector("canvas[data-chart]");
    if (!canvas || !window.Chart) return;
    const data = JSON.parse(canvas.dataset.chart);
    const style = getComputedStyle(root);
    const text = style.getPropertyValue("--pc-muted"), line = style.getPropertyValue("--pc-line");
    new window.Chart(canvas, {
      data: {
        labels: data.labels,
        datasets: [
          { type: "bar", label: data.amount, data: data.amounts, yAxisID: "y", backgroundColor: style.getPropertyValue("--pc-bar") },
          { type: "line", label: data.count, data: data.counts, yAxisID: "n", borderColor: style.getPropertyValue("--pc-curve"),
            pointRadius: 2, borderWidth: 2, backgroundColor: "transparent" },
        ],
      },
      options: {
        animation: false, maintainAspectRatio: false, interaction: { mode: "index", intersect: false },
        plugins: { legend: { labels: { color: text } } },
        scales: {
          x: { ticks: { color: text, maxRotation: 0 }, grid: { display: false } },
          y: { beginAtZero: true, ticks: { color: text }, grid: { color: line } },
          n: { beginAtZero: true, position: "right", ticks: { color: text, precision: 0 }, grid: { display: false } },
        },
      },
    });
  }
})();
