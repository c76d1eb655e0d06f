"use strict";

// Copying, where the Clipboard API is missing (plain HTTP from another
// machine) by selecting the text.
for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  field.addEventListener("focus", () => field.select());
  button.addEventListener("click", async () => {
    let done = false;
    if (navigator.clipboard) {
      try {
        await navigator.clipboard.writeText(field.value);
        done = true;
      } catch { /* the next way */ }
    }
    if (!done) {
      field.focus();
      field.select();
      done = document.execCommand("copy");
    }
    const label = button.dataset.label ??= button.textContent;
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = label; }, 4000);
    const stored = document.getElementById("stored");
    if (done && stored) stored.checked = true;
    document.getElementById("copied").textContent = done ? button.dataset.what + " copied." : "Press Ctrl+C to copy.";
  });
}

// Dialogs that ask before something ends; without this script they are pages.
for (const link of document.querySelectorAll("[data-dialog]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById(link.dataset.dialog).showModal();
  });
}
for (const link of document.querySelectorAll("dialog [data-close]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    link.closest("dialog").close();
  });
}

// The form of a new key: presets tick permissions, and a sentence says back
// what was chosen.
const form = document.querySelector("[data-newkey]");
if (form) {
  const boxes = [...form.querySelectorAll("input[name=permission]")];
  const list = (words) => words.length < 2 ? words.join("") : words.slice(0, -1).join(", ") + " and " + words.at(-1);
  const ends = () => {
    const field = form.elements.expiry;
    const days = { "30d": 30, "90d": 90, "1y": 365 }[field.value];
    const at = days ? new Date(Date.now() + days * 864e5) : new Date(form.elements.expires.value);
    if (field.value === "never") return "for ever";
    if (isNaN(at)) return "until a date that is not given yet";
    return "until " + at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  };
  const say = () => {
    const can = boxes.filter((box) => box.checked).map((box) => box.dataset.says);
    const limits = [...form.querySelectorAll("input[data-label]")].map((f) => (f.value || f.placeholder) + " " + f.dataset.label.toLowerCase());
    const text = (form.elements.name.value.trim() || "This key") + (can.length ? " can " + list(can) : " can do nothing yet: tick at least one permission") +
      "; " + list(limits) + "; from " + (form.elements.ips.value.trim() || "anywhere") + "; " + ends() + ".";
    const says = document.getElementById("says");
    says.hidden = false;
    says.textContent = text;
  };
  // Read out when a field is left, not at each key.
  const read = () => {
    say();
    document.getElementById("said").textContent = document.getElementById("says").textContent;
  };
  for (const link of form.querySelectorAll("[data-preset]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const wanted = link.dataset.preset.split(" ");
      for (const box of boxes) box.checked = wanted.includes(box.value);
      read();
    });
  }
  form.elements.expires.addEventListener("change", () => { form.elements.expiry.value = "date"; });
  form.addEventListener("input", say);
  form.addEventListener("change", read);
  say();
}

// A secret is shown once: leaving asks until it is said to be stored.
if (document.querySelector("[data-guard]")) {
  const stored = document.getElementById("stored");
  window.addEventListener("beforeunload", (event) => { if (!stored.checked) event.preventDefault(); });
}

// What a page asks for by itself does not make a session last longer.
const liveHeaders = { Accept: "application/json", "Latchkey-Live": "1" };

// The first request of a new key.
const waiting = document.querySelector("[data-used]");
if (waiting) {
  const look = async () => {
    try {
      const answer = await fetch(waiting.dataset.used, { headers: liveHeaders });
      if (answer.redirected) return; // to the login
      const key = await answer.json();
      if (key.last_used_at) {
        waiting.textContent = "First request seen, from " + (key.last_used_ip || "an unknown address") + ".";
        waiting.className = "arrived";
        document.getElementById("stored").checked = true;
        return;
      }
    } catch { /* the server may be starting anew */ }
    setTimeout(look, 1500);
  };
  look();
}

// A page follows what happens for as long as somebody looks: where nothing was
// touched for ten minutes it asks no more, so that a session that was left alone
// comes to its end. It says when what it shows is old.
const follow = (path, show) => {
  let touched = Date.now(), seen = new Date();
  const stale = document.querySelector("[data-stale]");
  const say = (text) => {
    if (!stale || stale.textContent === text) return;
    stale.textContent = text;
    stale.hidden = !text;
  };
  const since = () => seen.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  for (const kind of ["pointermove", "keydown", "scroll"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  const look = async () => {
    if (Date.now() - touched >= 6e5) {
      say("Not updated since " + since() + ". Move the pointer or press a key to go on.");
    } else if (!document.hidden) {
      try {
        const answer = await fetch(path(), { headers: liveHeaders });
        if (answer.redirected) {
          say("Your session has ended. This page is as it was at " + since() + ". Reload it to log in.");
          return;
        }
        await show(answer);
        seen = new Date();
        say("");
      } catch {
        say("The server does not answer. This page is as it was at " + since() + ".");
      }
    }
    setTimeout(look, 3000);
  };
  setTimeout(look, 3000);
};

// The meters of a key.
const live = document.querySelector("[data-live]");
if (live) {
  const show = (box, meters) => {
    const drawn = [...box.querySelectorAll(".meter")], hints = box.querySelectorAll(".free");
    if (drawn.length !== meters.length) return;
    meters.forEach((m, i) => {
      drawn[i].querySelector("span").textContent = m.text;
      drawn[i].querySelector("svg").setAttribute("aria-label", m.text + " used");
      const fill = drawn[i].querySelector(".fill");
      fill.setAttribute("width", m.percent);
      fill.setAttribute("class", "fill " + m.level);
      if (hints[i]) hints[i].textContent = m.free;
    });
  };
  follow(() => live.dataset.live, async (answer) => {
    const got = await answer.json();
    for (const box of document.querySelectorAll("[data-meters]")) show(box, got.meters);
  });
}

// The rows of the list of keys, those on the screen. What has the focus stays as
// it is.
const table = document.querySelector("[data-rows]");
if (table) {
  const shownRows = () => [...table.querySelectorAll("tr[data-key]")].filter((row) => {
    const box = row.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  });
  follow(() => table.dataset.rows + shownRows().map((row) => row.dataset.key).join(","), async (answer) => {
    const got = new DOMParser().parseFromString("<table><tbody>" + await answer.text(), "text/html");
    for (const row of got.querySelectorAll("tr")) {
      const shown = table.querySelector('tr[data-key="' + row.dataset.key + '"]');
      if (!shown) continue;
      shown.className = row.className;
      [...row.cells].forEach((cell, i) => {
        const old = shown.cells[i];
        if (old.innerHTML !== cell.innerHTML && !old.contains(document.activeElement)) old.innerHTML = cell.innerHTML;
      });
    }
  });
}

// Keys are selected with a box in each row, or all of the page at once. The
// buttons for them are there once one is.
const bulk = document.querySelector("[data-bulk]");
if (bulk) {
  const all = document.querySelector("[data-all]"), boxes = () => [...document.querySelectorAll("input[name=id][form=bulk]")];
  const count = () => {
    const list = boxes(), n = list.filter((box) => box.checked).length;
    bulk.hidden = !n;
    bulk.querySelector("[data-count]").textContent = n + " selected:";
    all.checked = n > 0 && n === list.length;
    all.indeterminate = n > 0 && n < list.length;
  };
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of boxes()) box.checked = all.checked;
    count();
  });
  document.addEventListener("change", (event) => { if (event.target.name === "id") count(); });
  addEventListener("pageshow", count); // the browser may have ticked boxes again
}

// On a phone the filters of a list are folded, unless one is set.
const fold = document.querySelector("details.fold");
if (fold) {
  const phone = matchMedia("(max-width: 45rem)");
  const set = () => { fold.open = !phone.matches || "set" in fold.dataset; };
  set();
  phone.addEventListener("change", set);
}
