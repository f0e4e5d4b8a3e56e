// What makes pages live and quick. Every page and every action works without it.
"use strict";
(() => {
  const main = document.getElementById("main");
  const asOf = document.getElementById("as-of");
  const every = Number(document.body.dataset.refresh) * 1000;

  // Times: in the reader's zone, with UTC on pointing.
  const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const two = (whole, unit, part, partUnit) => (part ? `${whole} ${unit} ${part} ${partUnit}` : `${whole} ${unit}`);
  const lasted = (s) => {
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
    return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
  };
  // The host's clock counts, not this machine's.
  let skew = 0;
  const host = asOf && asOf.querySelector("time");
  if (host) skew = Date.parse(host.dateTime) - Date.now();
  const tell = (root) => {
    const now = Date.now() + skew;
    for (const time of root.querySelectorAll("time[data-time]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      if (!time.dataset.utc) time.dataset.utc = time.title;
      const kind = time.dataset.time;
      if (kind === "clock") time.textContent = clock.format(at);
      else if (kind === "full") time.textContent = zone.format(at);
      else {
        const s = Math.round((now - at) / 1000);
        time.textContent = s === 0 ? "now" : s > 0 ? `${lasted(s)} ago` : `in ${lasted(-s)}`;
      }
      time.title = `${zone.format(at)} (here), ${time.dataset.utc}`;
    }
  };

  // What changes by itself: the same page is asked for again, while somebody looks at it, and the parts marked as live are replaced.
  const known = new Map([...main.querySelectorAll("[data-live]")].map((part) => [part.id, part.outerHTML]));
  const state = { tag: "", failures: 0, timer: 0 };
  const isBusy = (part) => {
    const active = document.activeElement;
    const isChanged = [...part.querySelectorAll("input, textarea")].some((field) => field.type !== "hidden" && field.value !== field.defaultValue);
    const isTyping = active && part.contains(active) && /^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName) && active.type !== "hidden";
    const selection = document.getSelection();
    const isSelecting = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
    return isTyping || isChanged || isSelecting;
  };
  const describe = (element) => {
    if (!element || !main.contains(element)) return null;
    if (element.id) return `#${CSS.escape(element.id)}`;
    if (element.tagName === "A" && element.getAttribute("href")) return `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
    return null;
  };
  const replace = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of main.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || isBusy(part)) continue;
      const was = next.outerHTML;
      if (was === known.get(part.id)) continue;
      const open = [...part.querySelectorAll("details")].map((details) => details.open);
      const focused = part.contains(document.activeElement) ? describe(document.activeElement) : null;
      const scrolled = [...part.querySelectorAll(".table, pre")].map((box) => [box.scrollLeft, box.scrollTop]);
      const copy = document.importNode(next, true);
      part.replaceWith(copy);
      copy.querySelectorAll("details").forEach((details, n) => { if (open[n]) details.open = true; });
      copy.querySelectorAll(".table, pre").forEach((box, n) => { if (scrolled[n]) [box.scrollLeft, box.scrollTop] = scrolled[n]; });
      known.set(part.id, was);
      tell(copy);
      if (focused) copy.querySelector(focused)?.focus({ preventScroll: true });
    }
    mark();
  };
  const stale = (why) => {
    if (!asOf) return;
    asOf.classList.add("stale");
    const time = asOf.querySelector("time");
    asOf.replaceChildren(`${why}, as of `, time);
  };
  const fresh = (date) => {
    if (!asOf) return;
    state.failures = 0;
    const time = asOf.querySelector("time");
    time.dateTime = date.toISOString();
    time.title = date.toUTCString();
    delete time.dataset.utc;
    asOf.classList.remove("stale");
    asOf.replaceChildren("As of ", time);
    tell(asOf);
  };
  const refresh = async () => {
    if (document.hidden || document.querySelector("dialog[open]")) return;
    try {
      const answer = await fetch(location.pathname + location.search, {
        headers: { "x-patchbay-refresh": "1" }, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(10000),
      });
      if (answer.status === 401) {
        stale("Signed out");
        return false;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const tag = answer.headers.get("etag");
      const text = await answer.text();
      if (tag !== state.tag) replace(text);
      state.tag = tag;
      fresh(new Date(Date.now() + skew));
    } catch {
      state.failures += 1;
      stale("Stale: the host does not answer");
    }
    return true;
  };
  const next = () => {
    clearTimeout(state.timer);
    // A host in trouble is asked less often.
    state.timer = setTimeout(async () => { if ((await refresh()) !== false) next(); }, every * Math.min(1 + state.failures, 10));
  };
  if (every > 0) {
    next();
    document.addEventListener("visibilitychange", () => {
      clearTimeout(state.timer);
      if (!document.hidden) refresh().then((go) => { if (go !== false) next(); });
    });
  }
  setInterval(() => { if (!document.hidden) tell(document); }, 1000);

  // Keys.
  const rows = () => [...main.querySelectorAll("table.rows tbody tr[data-href]")];
  let here = null;
  const mark = () => {
    for (const row of rows()) row.classList.toggle("here", row.dataset.href === here);
  };
  const step = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.findIndex((row) => row.dataset.href === here);
    const row = all[Math.min(Math.max(at + by, 0), all.length - 1)];
    here = row.dataset.href;
    mark();
    row.querySelector("a")?.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  };
  const sheet = document.getElementById("shortcuts");
  let afterG = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    const isField = /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName);
    if (event.key === "Escape" && isField) at.blur();
    if (isField || document.querySelector("dialog[open]")) return;
    if (afterG && Date.now() - afterG < 1500) {
      afterG = 0;
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    switch (event.key) {
      case "?": sheet?.showModal(); break;
      case "/": document.getElementById("find")?.focus(); break;
      case "g": afterG = Date.now(); return;
      case "j": step(1); break;
      case "k": step(-1); break;
      case "Enter":
        if (here && at.tagName !== "A" && at.tagName !== "BUTTON" && at.tagName !== "SUMMARY") location.assign(here);
        return;
      case "r": {
        const row = here && rows().find((one) => one.dataset.href === here);
        const button = (row && row.querySelector("[data-key=r]")) || main.querySelector("[data-key=r]:not(tr *)");
        if (!button) return;
        button.focus();
        button.click();
        break;
      }
      default: return;
    }
    event.preventDefault();
  });

  // Lists of boxes: one that ticks all.
  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-all]")) return;
    for (const box of event.target.closest("table").querySelectorAll("tbody input[type=checkbox]")) box.checked = event.target.checked;
  });
  // Copying.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy)?.textContent;
    if (text === undefined) return;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      document.getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    }
  });
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
  // A form is sent once.
  document.addEventListener("submit", (event) => {
    if (event.target.method === "dialog") return;
    if (event.target.dataset.sent && event.target.method === "post") event.preventDefault();
    event.target.dataset.sent = "1";
  });
  addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });
  tell(document);
})();
