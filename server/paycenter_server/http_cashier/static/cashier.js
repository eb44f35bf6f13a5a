// The countdown, the look for a change every two seconds, WeChat's bridge, and the way back. The page works without it.
(function () {
  "use strict";
  var script = document.currentScript;
  var left = document.getElementById("left");
  if (left) {
    var end = Date.parse(left.dateTime);
    var tick = function () {
      var seconds = Math.max(0, Math.floor((end - Date.now()) / 1000));
      var hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60, rest = seconds % 60;
      var two = function (number) { return (number < 10 ? "0" : "") + number; };
      left.textContent = (hours ? hours + ":" : "") + two(minutes) + ":" + two(rest);
      if (seconds === 0) { clearInterval(timer); setTimeout(function () { location.reload(); }, 1500); }
    };
    var timer = setInterval(tick, 1000);
    tick();
  }
  if (script.hasAttribute("data-wait")) {
    var look = function () {
      fetch(script.dataset.poll, { cache: "no-store" }).then(function (answer) { return answer.json(); }).then(function (found) {
        if (found.state && found.state !== script.dataset.state) { location.replace(location.pathname + location.search.replace(/[?&]again\b/, "?")); return; }
        setTimeout(look, 2000);
      }).catch(function () { setTimeout(look, 5000); });
    };
    setTimeout(look, 2000);
  }
  var bars = document.querySelectorAll(".bar");
  var choose = function () {
    var chosen = document.querySelector("input[name=code]:checked");
    bars.forEach(function (bar) {
      var on = !!chosen && bar.dataset.for === chosen.value, input = bar.querySelector("input");
      bar.hidden = !on; input.disabled = !on; input.required = on;
    });
  };
  document.querySelectorAll("input[name=code]").forEach(function (input) { input.addEventListener("change", choose); });
  choose();
  var bridge = document.getElementById("bridge");
  if (bridge) {
    var call = function () { window.WeixinJSBridge.invoke("getBrandWCPayRequest", JSON.parse(bridge.dataset.call), function () {}); };
    if (window.WeixinJSBridge) { call(); } else { document.addEventListener("WeixinJSBridgeReady", call); }
  }
  var back = document.getElementById("back");
  if (back && back.dataset.follow) { setTimeout(function () { location.href = back.href; }, 1000 * Number(back.dataset.follow)); }
})();
