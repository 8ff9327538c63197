// Our pages live in frames of another site: what a page needs for that, and nothing else.
(() => {
  "use strict";

  // Where cookies are blocked in frames, the page itself keeps what proves that somebody is signed in, until it is left.
  let token = "";

  // A frame that was made by component code under Lightning Web Security has no origin: no cookies, no windows, no forms.
  const shut = window.origin === "null";

  document.addEventListener("htmx:configRequest", (event) => {
    if (token) event.detail.headers.Authorization = `Bearer ${token}`;
  });

  // The way back asks the server, since pages with secrets are kept nowhere; htmx tells of that request in its own manner.
  document.addEventListener("htmx:historyCacheMiss", (event) => {
    if (token) event.detail.xhr.setRequestHeader("Authorization", `Bearer ${token}`);
  });
  document.addEventListener("htmx:historyCacheMissLoadError", () => window.location.reload());

  // A refusal is a page as well: it is shown where the answer would have been. A 5xx may be a router's, with a page of its own.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { status, responseText } = event.detail.xhr;
    if (status >= 400 && (status < 500 || responseText.includes('id="main"'))) {
      event.detail.shouldSwap = true;
      event.detail.isError = false;
    }
  });

  document.addEventListener("htmx:sendError", () => say("The connector does not answer. Check your connection, and try again."));
  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    // who is told to wait keeps what is filled in
    const busy = new DOMParser().parseFromString(responseText, "text/html").getElementById("busy");
    if (busy && event.detail.elt.id === "panel") return; // it asks again by itself
    if (status >= 500) say(busy?.textContent ?? "Something went wrong on our side. Try again in a moment.");
  });

  function say(words) {
    const place = document.getElementById("alert");
    place.querySelector("span").textContent = words;
    place.hidden = false;
  }

  const post = (url, fields) => fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/x-www-form-urlencoded", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
    body: new URLSearchParams(fields),
  });

  // One sign-in at a time: what began it, and the window that it happens in.
  let pending = null;

  async function signIn(button) {
    const popup = window.open("", "service-cloud-connector-sign-in", "popup,width=520,height=680");
    button.disabled = true;
    try {
      const answer = await post(button.dataset.signIn, button.dataset.fields ? JSON.parse(button.dataset.fields) : {});
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || "The sign-in could not be begun.");
      pending = { ...(await answer.json()), popup, wanted: button.dataset.wanted };
      if (popup) popup.location = pending.start;
      document.getElementById("code-form").hidden = false;
      document.getElementById("sign-in-link").href = pending.start;
      document.getElementById("blocked").hidden = Boolean(popup);
    } catch (error) {
      popup?.close();
      say(error.message);
    } finally {
      button.disabled = false;
    }
  }

  async function finish(code) {
    if (!pending) return;
    const answer = await post(pending.finish, { id: pending.id, secret: pending.secret, code });
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      const busy = answer.status === 503 && "The connector is busy. Type the code that the window shows, and try again.";
      say(body.error || busy || "The sign-in did not succeed. Begin again.");
      return;
    }
    const next = pending.wanted || body.next; // the page that was asked for, where it was one
    pending.popup?.close();
    pending = null;
    token = body.token;
    htmx.ajax("GET", next, { target: "#main", select: "#main", swap: "outerHTML" })
      .then(() => history.replaceState(null, "", next));
  }

  // Only a window of our own site, the very one that we opened, may hand a code in.
  window.addEventListener("message", (event) => {
    if (event.origin !== window.location.origin || !pending || event.source !== pending.popup) return;
    if (typeof event.data?.signInCode === "string") finish(event.data.signInCode);
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-sign-in]");
    if (button) signIn(button);
    const copy = event.target.closest("[data-copy]");
    if (copy) copyText(copy);
    const file = event.target.closest("[data-download]");
    if (file && token) {
      event.preventDefault(); // a plain link would not carry the token
      download(file);
    }
  });

  document.addEventListener("submit", (event) => {
    if (event.target.id === "code-form") {
      event.preventDefault();
      finish(event.target.elements.code.value);
    }
    if (event.target.dataset.remember) remember(event.target.elements.my_domain.value);
  });

  // The My Domain that was typed last; a browser may keep nothing for frames.
  function remember(value) {
    try {
      if (value) localStorage.setItem("my-domain", value);
      return localStorage.getItem("my-domain") || "";
    } catch {
      return "";
    }
  }

  async function copyText(button) {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text); // a frame needs its parent's leave for this
    } catch {
      const field = document.createElement("textarea");
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  }

  async function download(link) {
    const answer = await fetch(link.href, { headers: { Authorization: `Bearer ${token}` } });
    if (!answer.ok) {
      say("The file could not be made. Try again.");
      return;
    }
    const saved = document.createElement("a");
    saved.href = URL.createObjectURL(await answer.blob());
    saved.download = link.dataset.download;
    saved.click();
    URL.revokeObjectURL(saved.href);
  }

  // A page that was just made may bring the token along.
  function takeToken() {
    const place = document.querySelector("[data-token]");
    if (place) token = place.dataset.token;
  }

  // What is left of a time runs by itself; the server says how much it is, whatever the clock here shows.
  let left = [];

  function readTimes() {
    for (const place of document.querySelectorAll("time[data-clock]")) {
      const at = new Date(place.dateTime);
      const day = at.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
      place.textContent = at.toLocaleString(undefined, { ...day, hour: "2-digit", minute: "2-digit" });
      place.title = at.toLocaleString();
    }
    const now = performance.now();
    left = [...document.querySelectorAll("[data-left]")].map((place) => ({ place, end: now + place.dataset.left * 1000 }));
    runTimes();
    const said = document.getElementById("said");
    const words = document.querySelector("[data-say]")?.dataset.say ?? "";
    if (said.textContent !== words) said.textContent = words;
  }

  function runTimes() {
    for (const { place, end } of left) {
      const minutes = Math.max(0, Math.floor((end - performance.now()) / 60000));
      place.textContent = minutes >= 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : minutes ? `${minutes} min` : "less than a minute";
    }
  }

  setInterval(runTimes, 1000);

  // A page that looks again by itself rests while nobody sees it, and catches up when somebody does.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.detail.elt.id === "panel") event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    const panel = document.getElementById("panel");
    if (panel && !document.hidden) htmx.trigger(panel, "refresh");
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.successful && event.detail.elt.id === "panel") document.getElementById("alert").hidden = true;
  });

  function ready() {
    takeToken();
    readTimes();
    if (shut) {
      document.getElementById("shut").hidden = false;
      document.getElementById("main").hidden = true;
      document.getElementById("own-tab").href = window.location.href;
    }
    const field = document.querySelector("[data-remember] [name=my_domain]");
    if (field && !field.value) field.value = remember();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
  else ready();
  document.addEventListener("htmx:afterSwap", () => {
    document.getElementById("alert").hidden = true;
    takeToken();
    readTimes();
    document.querySelector("[autofocus]")?.focus();
  });
})();
