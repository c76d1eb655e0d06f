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

// Parts of a page that are kept up to date. The server says by a stream when there are new requests;
// where the stream is missing, the page asks every five seconds. A part is left alone while somebody
// uses it.
const parts = document.querySelectorAll("[data-refresh]");
if (parts.length) {
  const note = document.getElementById("fresh"), box = document.getElementById("live");
  let stream = null, asked = 0, busy = false;
  box.parentElement.hidden = false;
  const say = (text, stale) => {
    if (note.textContent !== text) note.textContent = text;
    note.classList.toggle("stale", stale);
  };
  const refresh = async () => {
    if (busy || document.hidden || !box.checked) return;
    busy = true;
    asked = Date.now();
    try {
      const answer = await fetch(location.href, { headers: liveHeaders });
      if (answer.redirected || answer.status === 401) {
        box.checked = false;
        say("Your session has ended. Reload the page to log in.", true);
        stop();
      } else if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of parts) {
          const next = page.getElementById(part.id), open = part.querySelector("details[open]");
          if (next && !open && !part.contains(document.activeElement) && !part.contains(getSelection().anchorNode)) part.replaceChildren(...next.childNodes);
        }
        say(page.getElementById("fresh").textContent, false);
      }
    } catch {
      say(note.textContent.replace(/( The server does not answer.)?$/, " The server does not answer."), true);
    }
    busy = false;
  };
  const stop = () => { if (stream) stream.close(); stream = null; };
  const start = () => {
    if (stream || document.hidden || !box.checked || !window.EventSource) return;
    stream = new EventSource("/live");
    stream.onmessage = refresh;
  };
  box.addEventListener("change", () => box.checked ? (start(), refresh()) : stop());
  document.addEventListener("visibilitychange", () => document.hidden ? stop() : (start(), refresh()));
  addEventListener("pagehide", stop);
  setInterval(() => {
    const streams = stream && stream.readyState === EventSource.OPEN;
    if (Date.now() - asked > (streams ? 3e4 : 5e3)) refresh();
  }, 1000);
  start();
}

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
