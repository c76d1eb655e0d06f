"use strict";

// Copying, where the Clipboard API is missing (plain HTTP from another
// machine) by selecting the text.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const field = document.getElementById(button.dataset.copy);
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
    button.textContent = done ? "Copied" : "Press Ctrl+C";
  });
}

// Dialogs that ask before something ends.
for (const button of document.querySelectorAll("[data-dialog]")) {
  button.addEventListener("click", (event) => {
    event.preventDefault(); // a link leads to the same question as a page
    document.getElementById(button.dataset.dialog).showModal();
  });
}
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// Presets tick permissions.
for (const button of document.querySelectorAll("[data-preset]")) {
  button.addEventListener("click", () => {
    const wanted = button.dataset.preset.split(" ");
    for (const box of document.querySelectorAll("input[name=permission]")) {
      box.checked = wanted.includes(box.value);
    }
  });
}

// The first request of a new key.
const waiting = document.querySelector("[data-used]");
if (waiting) {
  const look = async () => {
    try {
      const answer = await fetch(waiting.dataset.used, { headers: { Accept: "application/json" } });
      const key = await answer.json();
      if (key.last_used_at) {
        waiting.textContent = "First request seen, from " + key.last_used_ip + ".";
        waiting.className = "arrived";
        return;
      }
    } catch { /* the server may be starting anew */ }
    setTimeout(look, 1500);
  };
  look();
}
