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
      const part = event.detail.requestConfig.elt.closest("[hx-select]").getAttribute("hx-select");
      if (new DOMParser().parseFromString(responseText, "text/html").querySelector(part)) return;
      // it has nothing for the part of the page that was to change: it is shown whole
      event.detail.target = document.getElementById("main");
      event.detail.selectOverride = "#main";
      event.detail.swapOverride = "outerHTML";
    }
  });

  // A form that was refused comes back with the reason at its place: neither the page's beginning nor the field that had
  // the cursor is where to look then. After one that was taken another page follows, by a redirect.
  const mayBeRefused = ({ detail }) =>
    detail?.requestConfig?.verb === "post" && detail.xhr.responseURL.endsWith(detail.pathInfo.requestPath);

  document.addEventListener("htmx:beforeSwap", (event) => {
    const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    if (mayBeRefused(event) && event.detail.shouldSwap && answer.querySelector("#main [role=alert]:not([hidden])")) {
      event.detail.swapOverride = "outerHTML show:none";
    }
  });

  function showRefusal(part) {
    const reason = part.querySelector(".wrong [role=alert]") ?? part.querySelector("[role=alert]:not([hidden])");
    if (!reason) return;
    for (let box = reason.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    const field = reason.closest(".wrong");
    if (!part.matches(".outcome")) { // who chooses keeps the cursor where it is
      reason.tabIndex = -1;
      (field?.querySelector("input:not([type=hidden]), select, textarea") ?? reason).focus({ preventScroll: true });
    }
    (field ?? reason).scrollIntoView({ block: "nearest" });
  }

  const UNANSWERED = "The connector does not answer. Check your connection, and try again.";
  for (const name of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(name, ({ detail }) => fail(detail.elt, UNANSWERED));
  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    // who is told to wait keeps what is filled in
    const busy = new DOMParser().parseFromString(responseText, "text/html").getElementById("busy");
    if (busy && event.detail.elt.id === "panel") return; // it asks again by itself
    if (status >= 500) fail(event.detail.elt, busy?.textContent ?? "Something went wrong on our side. Try again in a moment.");
  });

  // A choice that is saved as it is made says so itself where that failed; all else at the top of the page.
  const SAVES_ITSELF = ".sender[hx-post]";
  const fail = (part, words) => (part.matches(SAVES_ITSELF) ? takeBack(part, words) : say(words));

  function takeBack(form, words) {
    setTimeout(() => { // a second choice of the same number is sent after this, and carries the first one along
      if (form.classList.contains("htmx-request")) return;
      form.reset();
      const place = form.querySelector(".outcome");
      for (const each of place.querySelectorAll(".saved, .problem")) each.remove();
      const problem = document.createElement("p");
      problem.className = "problem wide";
      problem.setAttribute("role", "alert");
      problem.textContent = `Not saved. ${words}`;
      place.prepend(problem);
      problem.scrollIntoView({ block: "nearest" });
    });
  }

  // What was saved is what a choice goes back to.
  document.addEventListener("htmx:afterSwap", ({ target, detail }) => {
    if (!target.querySelector?.(":scope > .saved") || !detail.requestConfig.elt.matches(SAVES_ITSELF)) return;
    const { elt, formData } = detail.requestConfig;
    const chosen = new Map([...elt.querySelectorAll("select")].map((select) => [select, select.value]));
    for (const option of elt.querySelectorAll("option")) {
      option.defaultSelected = option.value === formData.get(option.parentElement.name);
    }
    for (const [select, value] of chosen) select.value = value; // a younger choice may be on its way
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

  const CLOSED_MS = 500; // how often it is seen that a window was closed

  // One sign-in at a time: what began it, and the window that it happens in.
  let pending = null;

  async function signIn(button) {
    const popup = window.open("", "service-cloud-connector-sign-in", "popup,width=520,height=680");
    button.disabled = true;
    tellRefusal("");
    try {
      const answer = await post(button.dataset.signIn, button.dataset.fields ? JSON.parse(button.dataset.fields) : {});
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || "The sign-in could not be begun.");
      pending = { ...(await answer.json()), popup, wanted: button.dataset.wanted };
      if (popup) popup.location = pending.start;
      document.getElementById("code-form").hidden = false;
      document.getElementById("sign-in-link").href = pending.start;
      document.getElementById("blocked").hidden = Boolean(popup);
      if (popup) watch(pending);
    } catch (error) {
      popup?.close();
      say(error.message);
    } finally {
      button.disabled = false;
    }
  }

  // What a refusal leaves: the button, and why. Empty words: none.
  function tellRefusal(words) {
    const place = document.getElementById("not-signed-in");
    place.querySelector("span").textContent = words;
    place.hidden = !words;
    if (words) document.getElementById("code-form").hidden = true;
  }

  // Salesforce may refuse on a page of its own, of which nobody tells us; then the window is closed by hand. One that
  // Salesforce cut off looks closed as well, so the field for its code stays.
  function watch(mine) {
    const timer = setInterval(() => {
      if (pending !== mine || mine.code) clearInterval(timer);
      else if (mine.popup.closed) {
        clearInterval(timer);
        tellRefusal("You are not signed in yet. If the window shows a code, type it below; if it was refused or closed, sign in again.");
        document.getElementById("code-form").hidden = false;
      }
    }, CLOSED_MS);
  }

  async function finish(code) {
    if (!pending) return;
    pending.code = code;
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
    // the address of the page that comes, not of the entrance that leads to it
    htmx.ajax("GET", next, { target: "#main", select: "#main", swap: "outerHTML", replace: "true" });
  }

  // Only a window of our own site, the very one that we opened, may hand a code in.
  window.addEventListener("message", (event) => {
    if (event.origin !== window.location.origin || !pending || event.source !== pending.popup) return;
    if (typeof event.data?.signInCode === "string") finish(event.data.signInCode);
    if (typeof event.data?.signInProblem === "string") {
      pending = null;
      tellRefusal(`The sign-in did not work; you can sign in again. ${event.data.signInProblem}`);
    }
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

  // Choices are saved as they are made. Who goes on meanwhile goes on when they are saved, and stays where one is refused.
  let goesOn = null;

  document.addEventListener("click", (event) => {
    const link = event.target.closest("#main a[href]");
    if (!link || link.target) return;
    const typed = link.dataset.goesOn !== undefined && [...document.querySelectorAll(".sender [name=number]:not([type=hidden])")]
      .find((field) => field.value.trim());
    if (typed) {
      say(`+${typed.value.replace(/^\+/, "")} is not added yet. Choose “Add”, or empty its field.`);
      typed.focus();
    }
    const saving = document.querySelector(`${SAVES_ITSELF}.htmx-request`);
    if (saving) goesOn = link;
    if (!typed && !saving) return;
    event.preventDefault();
    event.stopPropagation();
  }, { capture: true });

  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.elt.matches(SAVES_ITSELF)) return;
    if (!event.detail.successful) goesOn = null;
    setTimeout(() => { // a second choice of the same number is sent after this
      if (!goesOn || document.querySelector(`${SAVES_ITSELF}.htmx-request`)) return;
      const link = goesOn;
      goesOn = null;
      if (!document.querySelector(".sender .outcome .problem")) link.click();
    });
  });

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
  document.addEventListener("htmx:afterSwap", (event) => {
    document.getElementById("alert").hidden = true;
    takeToken();
    readTimes();
    if (!event.target.querySelector) return; // a text beside the part
    event.target.querySelector("[autofocus]")?.focus();
    if (mayBeRefused(event)) showRefusal(event.target);
  });
})();
