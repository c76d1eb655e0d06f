"use strict";

// Copying, where the Clipboard API is missing (plain HTTP from another
// machine) by selecting the text.
const copies = (button, field) => button.addEventListener("click", async () => {
  let done = false;
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(field.value ?? field.textContent);
      done = true;
    } catch { /* the next way */ }
  }
  if (!done) {
    field.focus();
    if (field.select) field.select();
    else getSelection().selectAllChildren(field);
    done = document.execCommand("copy");
  }
  const label = button.dataset.label ??= button.textContent;
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { button.textContent = label; }, 4000);
  const stored = document.getElementById("stored");
  if (done && stored) stored.checked = true;
  document.getElementById("copied").textContent = done ? button.dataset.what + " copied." : "Press Ctrl+C to copy.";
});
for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  field.addEventListener("focus", () => field.select());
  copies(button, field);
}
for (const block of document.querySelectorAll(".doc pre")) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "small copy", textContent: "Copy" });
  button.dataset.what = "Code";
  block.before(button);
  copies(button, block);
}

// A password that is typed can be looked at. It is sent as a password, so that no browser remembers it as a text.
for (const field of document.querySelectorAll("input[type=password]")) {
  const button = document.createElement("button"), name = document.querySelector(`label[for="${CSS.escape(field.id)}"]`).firstChild.textContent.trim();
  const show = (shown) => {
    field.type = shown ? "text" : "password";
    button.textContent = shown ? "Hide" : "Show";
    button.ariaLabel = button.textContent + ": " + name;
  };
  Object.assign(button, { type: "button", className: "small show" });
  show(false);
  button.addEventListener("click", () => show(field.type === "password"));
  field.form.addEventListener("submit", () => show(false));
  field.after(button);
}

for (const field of document.querySelectorAll("[data-filter]")) {
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const item of document.querySelectorAll(field.dataset.filter)) item.hidden = !words.every((word) => item.textContent.toLowerCase().includes(word));
  });
}

// Dialogs that ask before something ends; without this script they are pages.
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-dialog], dialog [data-close]");
  if (!link) return;
  event.preventDefault();
  if (link.dataset.dialog) document.getElementById(link.dataset.dialog).showModal();
  else link.closest("dialog").close();
});

// A search that may hold the secret of a key goes by POST: no address has it.
document.addEventListener("submit", (event) => {
  const form = event.target, page = document.createElement("input");
  if (form.getAttribute("method") !== "get" || ![...new FormData(form).values()].some((value) => /[\w-]{12}/.test(value))) return;
  Object.assign(page, { type: "hidden", name: "search.page", value: form.getAttribute("action") });
  form.append(page);
  form.setAttribute("method", "post");
  form.setAttribute("action", "/keys/find");
});

// Ctrl+K searches. An earlier answer never replaces a later one.
const palette = document.getElementById("palette");
if (palette) {
  const field = palette.querySelector("input"), list = document.getElementById("found"), says = palette.querySelector("p");
  let asked, timer, at = -1;
  const mark = (to) => {
    const option = list.children[at = to];
    for (const one of list.children) one.setAttribute("aria-selected", one === option);
    field.setAttribute("aria-activedescendant", option?.id || "");
    option?.scrollIntoView({ block: "nearest" });
  };
  const ask = async () => {
    asked?.abort();
    const mine = asked = new AbortController();
    try {
      const answer = await fetch("/find", { method: "POST", body: new URLSearchParams({ query: field.value, part: "1" }), signal: mine.signal });
      if (!answer.ok) throw answer;
      const got = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine !== asked) return;
      says.textContent = got.querySelector("p").textContent;
      list.replaceChildren(...got.querySelectorAll("a"));
      mark(list.firstChild ? 0 : -1);
    } catch (fault) {
      if (mine === asked && fault.name !== "AbortError") says.textContent = fault.status === 401 ? "Your session has ended. Reload the page." : "The server does not answer.";
    }
  };
  field.addEventListener("focus", ask);
  field.addEventListener("input", () => {
    mark(-1);
    clearTimeout(timer);
    timer = setTimeout(ask, 150);
  });
  field.addEventListener("keydown", (event) => {
    const count = list.children.length, step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !count) return;
    event.preventDefault();
    mark((at + step + count) % count);
  });
  field.form.addEventListener("submit", (event) => {
    if (at < 0) return;
    event.preventDefault();
    list.children[at].click();
  });
  palette.addEventListener("close", () => {
    clearTimeout(timer);
    asked?.abort();
    field.value = says.textContent = "";
    list.replaceChildren();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "k" || !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    if (palette.open) palette.close();
    else if (!document.querySelector("dialog[open]")) palette.showModal();
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
    const { dates, zone } = document.querySelector("[data-zone]").dataset;
    return "until " + at.toLocaleDateString(dates || "en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: days ? zone : "UTC" });
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

// Another range of times on a day.
for (const box of document.querySelectorAll("[data-more]")) {
  const more = document.createElement("button");
  more.type = "button";
  more.className = "small";
  more.textContent = "Add a range";
  more.ariaLabel = "Add a range: " + box.parentElement.querySelector("legend").firstChild.textContent.trim();
  more.addEventListener("click", () => {
    const row = more.previousElementSibling.cloneNode(true), fields = row.querySelectorAll("input");
    for (const field of fields) field.value = "";
    more.before(row);
    fields[0].focus();
  });
  box.append(more);
}

// On a phone the filters of a list are folded, unless one is set.
const fold = document.querySelector("details.fold");
if (fold) {
  const phone = matchMedia("(max-width: 45rem)");
  const set = () => { fold.open = !phone.matches || "set" in fold.dataset; };
  set();
  phone.addEventListener("change", set);
}

// What a page asks for by itself does not make a session last longer.
const liveHeaders = { "Latchkey-Live": "1" };

// Parts of a page that are kept up to date: they are replaced by those with the same ids in the page as
// it is now, or in what data-live names, which for a list gets the ids of the rows on the screen. The
// server says by a stream when there is something new; while the stream is missing, the page asks every
// five seconds. A part is left alone while somebody uses it. The page says when what it shows is old.
const parts = () => [...document.querySelectorAll("[data-refresh]")];
if (parts().length) {
  const source = document.querySelector("[data-live]"), box = document.getElementById("live"), stale = document.getElementById("stale");
  let stream = null, heard = false, asked = Date.now(), busy = false, again = false, ended = false;
  if (box) box.parentElement.hidden = false;
  const idle = () => ended || document.hidden || (box && !box.checked);
  const say = (text) => { if (stale && stale.textContent !== text) stale.textContent = text; };
  const address = () => {
    if (!source) return location.href;
    const seen = parts().filter((part) => part.dataset.key && part.getBoundingClientRect().bottom > 0 && part.getBoundingClientRect().top < innerHeight);
    return source.dataset.live + seen.map((row) => row.id).join(",");
  };
  const renew = (part, next) => {
    const chosen = getSelection();
    if (next.outerHTML === part.outerHTML || part.querySelector("details[open]") || part.contains(document.activeElement)) return;
    if (!chosen.isCollapsed && chosen.containsNode(part, true)) return;
    const box = next.querySelector("input[type=checkbox]"), old = part.querySelector("input[type=checkbox]");
    if (box && old) box.checked = old.checked;
    part.replaceWith(next);
  };
  const refresh = async () => {
    again = busy; // what happens meanwhile is asked for afterwards
    if (busy || idle()) return;
    busy = true;
    asked = Date.now();
    try {
      const answer = await fetch(address(), { headers: liveHeaders });
      if (answer.redirected || answer.status === 401) {
        ended = true;
        stop();
        say("Your session has ended. Reload the page to log in.");
      } else if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of parts()) {
          const next = page.getElementById(part.id);
          if (next) renew(part, next);
          else if (!source) part.remove(); // of a list, only some rows are asked for
        }
        if (document.querySelector("[data-guard] .arrived")) document.getElementById("stored").checked = true;
        say("");
      } else {
        say("The server answers " + answer.status + ".");
      }
    } catch {
      say("The server does not answer.");
    }
    busy = false;
    if (again) refresh();
  };
  const stop = () => { if (stream) stream.close(); stream = null; heard = false; };
  const start = () => {
    if (stream || idle() || !window.EventSource) return;
    stream = new EventSource("/live");
    stream.onmessage = () => { heard = true; refresh(); };
    stream.onerror = () => { heard = false; refresh(); };
  };
  const follow = () => { if (idle()) stop(); else { start(); refresh(); } };
  if (box) box.addEventListener("change", follow);
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", stop);
  addEventListener("pageshow", start);
  setInterval(() => {
    if (idle() || Date.now() - asked < (heard ? 3e4 : 5e3)) return;
    if (stream && stream.readyState === EventSource.CLOSED) stop();
    start();
    refresh();
  }, 1000);
}

// Charts: what a bar stands for is said under the pointer, the finger or the arrow keys.
const tell = (bar) => {
  const chart = bar.closest(".chart"), tip = chart.querySelector(".tip"), title = bar.querySelector("title");
  hush();
  if (title) {
    bar.dataset.label = title.textContent; // one tip is enough
    title.remove();
  }
  bar.classList.add("on");
  tip.textContent = bar.dataset.label;
  const room = chart.clientWidth - tip.offsetWidth;
  tip.style.left = Math.max(0, Math.min(room, bar.getBoundingClientRect().x - chart.getBoundingClientRect().x - tip.offsetWidth / 2)) + "px";
};
const hush = () => {
  for (const tip of document.querySelectorAll(".tip")) tip.textContent = "";
  for (const bar of document.querySelectorAll(".hit.on")) bar.classList.remove("on");
};
document.addEventListener("pointerover", (event) => event.target.matches(".hit") ? tell(event.target) : hush());
document.addEventListener("keydown", (event) => {
  const bars = [...event.target.querySelectorAll(".hit")], last = bars.length - 1, at = bars.findIndex((bar) => bar.matches(".on"));
  const next = { ArrowLeft: at < 0 ? last : at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
  if (event.key === "Escape") hush();
  if (next === undefined || !event.target.matches(".chart > .scroll")) return;
  event.preventDefault();
  const bar = bars[Math.max(0, Math.min(last, next))];
  tell(bar);
  bar.scrollIntoView({ block: "nearest", inline: "nearest" });
});

// Passkeys. The button asks the authenticator, and the form goes off with the
// answer. Ids and keys are base64url in JSON and bytes for the browser.
const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const encoded = (data) => btoa(String.fromCharCode(...new Uint8Array(data))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const passkeyAnswer = (made) => {
  const response = {};
  for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (made.response[name]) response[name] = encoded(made.response[name]);
  }
  if (made.response.getTransports) response.transports = made.response.getTransports();
  return JSON.stringify({ id: made.id, rawId: encoded(made.rawId), type: made.type, clientExtensionResults: {}, response });
};
const passkeyFaults = {
  NotAllowedError: "This was cancelled, or took too long, or there is no passkey for this. Try again.",
  InvalidStateError: "This device has a passkey for this account already.",
  SecurityError: "The browser allows no passkeys at this address.",
};
for (const part of document.querySelectorAll("[data-passkey]")) {
  const [button, says, field] = ["button", "[role=alert]", "input"].map((what) => part.querySelector(what));
  const say = (text) => { says.textContent = text; says.hidden = false; };
  let waiting = null;
  const ask = async (quiet) => {
    if (waiting) waiting.abort();
    waiting = new AbortController();
    const options = JSON.parse(part.dataset.options);
    options.challenge = bytes(options.challenge);
    for (const known of [...(options.allowCredentials || []), ...(options.excludeCredentials || [])]) known.id = bytes(known.id);
    if (options.user) {
      options.user.id = bytes(options.user.id);
      options.user.name = options.user.displayName = options.user.name || field.form.elements.name.value.trim();
    }
    try {
      const made = await navigator.credentials[part.dataset.passkey]({ publicKey: options, signal: waiting.signal, ...(quiet && { mediation: "conditional" }) });
      field.value = passkeyAnswer(made);
      field.form.submit();
    } catch (fault) {
      if (!quiet && fault.name !== "AbortError") say(passkeyFaults[fault.name] || "The browser reports: " + fault.message);
    }
  };
  if (location.origin !== part.dataset.origin) {
    says.className = "soft";
    if (!document.querySelector("[data-elsewhere]")) say("Passkeys work only at " + part.dataset.origin + ".");
  } else if (!window.PublicKeyCredential) {
    say("This browser has no passkeys.");
  } else {
    button.hidden = false;
    button.addEventListener("click", () => {
      says.hidden = true;
      const name = field.form.elements.name;
      if (!name || part.dataset.passkey === "get" || name.reportValidity()) ask(false);
    });
    if ("quiet" in part.dataset) PublicKeyCredential.isConditionalMediationAvailable?.().then((can) => { if (can && !waiting) ask(true); });
  }
}
for (const said of document.querySelectorAll("[data-elsewhere]")) said.hidden = location.origin === said.dataset.elsewhere;

// A slider sets the number before it. Without this script there is only the number.
for (const slider of document.querySelectorAll("input[type=range]")) {
  const field = slider.previousElementSibling;
  slider.hidden = false;
  slider.value = field.value || slider.max / 2;
  slider.addEventListener("input", () => { field.value = slider.value; });
  field.addEventListener("input", () => { slider.value = field.value; });
}
