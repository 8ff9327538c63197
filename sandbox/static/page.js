// The sandbox's page: draws what /control/live tells, and turns what a person does into control calls.

const WIRE_ROWS = 60;
const SESSIONS = 200; // in the list; a benchmark opens thousands
const RETRY_MS = 1000;
const FAULTS_MS = 1000;
const ELAPSED_MS = 200;
const AT_END_PX = 24;
const TICKS = { sent: "Sent", delivered: "Delivered", read: "Read", failed: "Not delivered" };
const HOP_COLOURS = 6;

const BREAKS = [
  { id: "kill", label: "Kill the worker", path: "/control/processes/kill", body: { name: "worker", signal: 9 }, note: "Worker killed. It is started again." },
  { id: "cut", label: "Cut the stream", path: "/control/streams/cut", note: "Stream cut. The subscriber opens it again." },
  { id: "salesforce", label: "Salesforce answers 500", places: ["interactions", "acknowledgement"], note: "Salesforce refuses what the connector sends." },
  { id: "infobip", label: "Infobip answers 500", places: ["send"], note: "Infobip refuses what the connector sends." },
  { id: "expire", label: "Expire tokens", path: "/control/tokens/expire", wide: true, note: "Tokens expired. The connector logs in again." },
];

const state = { known: false, orgs: new Map(), phones: new Map(), sessions: new Map(), wire: new Map(), faults: [], processes: [], adminUrl: "", setupUrl: "" };
const chosen = { phone: null, session: null };
const added = new Map(); // end users added here who have not written yet, so the sandbox does not know them
const drafts = new Map();
const lookedAt = new Map(); // when each phone was last shown
const healing = new Set(); // wire rows that have been in trouble
let lastDropped = 0; // the newest row that had to make room on the wire

const $ = (id) => document.getElementById(id);

// --- the connector's page, in a frame

/** Show the set-up page, which the console opens first where there is nothing else to do yet. */
function drawFrame() {
  $("console-tabs").hidden = !state.setupUrl;
  const org = [...state.orgs.values()][0];
  $("org-setup").hidden = !org?.setupPage;
  if (org?.setupPage) $("org-setup").href = org.setupPage;
  if (!state.setupUrl) return;
  if (org && !org.channels.length && !$("setup-frame").dataset.address) chooseTab("setup");
}

function chooseTab(name) {
  for (const each of ["sessions", "setup"]) {
    const tab = $(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
  }
  $("setup-page").hidden = name !== "setup";
  const address = `${state.setupUrl}?id=`; // on a page without a record there is no id to glue on
  if (name === "setup" && $("setup-frame").dataset.address !== address) {
    $("setup-frame").dataset.address = $("setup-frame").src = address;
  }
}

for (const name of ["sessions", "setup"]) {
  const other = name === "setup" ? "sessions" : "setup";
  $(`tab-${name}`).addEventListener("click", () => chooseTab(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    chooseTab(other);
    $(`tab-${other}`).focus();
  });
}

// --- small tools

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function icon(name, className = "icon") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put text that may be cut, with the whole of it in the title. */
function putCut(node, text) {
  put(node, text);
  if (node.title !== text) node.title = text;
}

/** Make the children of a node match the items, touching only what differs, so that focus and scroll positions stay. */
function matchChildren(parent, items, keyOf, create, update) {
  const seen = new Map();
  const keys = items.map((item) => {
    const key = String(keyOf(item));
    const times = (seen.get(key) ?? 0) + 1; // a far side that shows an id twice is shown showing it twice
    seen.set(key, times);
    return times > 1 ? `${key} (${times})` : key;
  });
  const wanted = new Set(keys);
  const old = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) old.set(child.dataset.key, child);
    else child.remove();
  }
  let place = parent.firstElementChild;
  items.forEach((item, index) => {
    let node = old.get(keys[index]);
    if (!node) {
      node = create(item);
      node.dataset.key = keys[index];
    }
    update(node, item, index);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  });
}

/** Change what a scroller shows; follow its end if that was in view or if something else is shown now. */
function followEnd(scroller, showing, change) {
  const switched = scroller.dataset.showing !== showing;
  scroller.dataset.showing = showing;
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < AT_END_PX;
  change(switched);
  if (switched || atEnd) scroller.scrollTop = scroller.scrollHeight;
}

function initials(name) {
  const words = name.split(/\s+/).filter((word) => /^\p{L}/u.test(word));
  if (!words.length) return "#";
  return [words[0], ...words.slice(1).slice(-1)].map((word) => [...word][0].toUpperCase()).join("");
}

const clock = (at) => new Date(at).toTimeString().slice(0, 5);
const preciseClock = (at) => `${new Date(at).toTimeString().slice(0, 8)}.${String(Math.floor(at) % 1000).padStart(3, "0")}`;

function duration(ms) {
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.floor((ms % 60_000) / 1000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`;
}

/** Call the control API; throw an Error whose message can be shown to a person. */
async function call(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("The sandbox cannot be reached. Try again when the connection is back.");
  }
  const text = await response.text();
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    answer = { error: text.slice(0, 200) };
  }
  if (!response.ok) throw new Error(answer.error || `The sandbox failed with status ${response.status}. Try again.`);
  return answer;
}

const post = (path, body = {}) => call("POST", path, body);

function showError(id, text) {
  $(id).hidden = !text;
  put($(id), text);
}

function announce(name, text) {
  put($("news"), `${name}: ${text}`);
}

// Drawing waits for the next frame: a flood of events costs one drawing a frame.
const waiting = new Set();

function draw(...parts) {
  if (!waiting.size) {
    requestAnimationFrame(() => {
      const now = [...waiting];
      waiting.clear();
      for (const part of now) part();
    });
  }
  for (const part of parts) waiting.add(part);
}

/** Let a form with one text field send on Enter, keep a draft per place, and give the text back if the call fails. */
function textForm(form, field, errorId, place, send) {
  let open = 0;
  field.addEventListener("input", () => drafts.set(place(), field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = place();
    const text = field.value.trim();
    field.focus();
    if (!text || !key) return;
    field.value = "";
    drafts.delete(key);
    showError(errorId, "");
    form.setAttribute("aria-busy", String(++open > 0));
    try {
      await send(text);
    } catch (problem) {
      drafts.set(key, [text, drafts.get(key)].filter(Boolean).join("\n"));
      if (place() === key) {
        field.value = drafts.get(key);
        showError(errorId, problem.message);
      }
    } finally {
      form.setAttribute("aria-busy", String(--open > 0));
    }
  });
}

function showDraft(field, errorId, key) {
  field.value = drafts.get(key) ?? "";
  showError(errorId, "");
}

// --- the phone

const phoneKey = (phone) => `${phone.org}/${phone.user}/${phone.sender}`;
const personName = ({ name, user }) => (name && name !== user ? name : `+${user}`);
const orgTitle = (id) => state.orgs.get(id)?.title ?? id;
const allPhones = () => [...state.phones.values(), ...[...added.values()].filter((phone) => !state.phones.has(phoneKey(phone)))];
const shownPhone = () => state.phones.get(chosen.phone) ?? added.get(chosen.phone);
const placeOfPhone = () => chosen.phone && `phone ${chosen.phone}`;

function unreadOf(phone) {
  const since = lookedAt.get(phoneKey(phone)) ?? 0;
  return phone.messages.filter((message) => !message.mine && message.at > since).length;
}

/** Tell the sandbox that this chat is on the screen: it answers with the reports that the messages were seen. */
function lookAtPhone() {
  const phone = shownPhone();
  if (!phone || document.hidden) return;
  const last = phone.messages.findLast((message) => !message.mine);
  if (last) lookedAt.set(chosen.phone, Math.max(Date.now(), last.at));
  // Nobody asked for this call, so nobody is told when it fails; the next look repeats it.
  if (state.phones.has(chosen.phone)) post("/control/phone/open", { org: phone.org, user: phone.user }).catch(() => {});
}

function choosePhone(key) {
  chosen.phone = key;
  showDraft($("write-text"), "write-error", placeOfPhone());
  lookAtPhone();
  draw(drawPhone);
}

function messageMeta(message, withTicks) {
  const meta = make("span", "meta");
  const time = make("time", "", clock(message.at));
  time.dateTime = new Date(message.at).toISOString();
  meta.append(time);
  if (withTicks) {
    const tick = icon("tick-sent", "tick");
    tick.setAttribute("role", "img");
    tick.removeAttribute("aria-hidden");
    meta.append(make("span", "failed"), tick);
  }
  return meta;
}

/** Draw the buttons of a chatbot's question; pressing one answers it as WhatsApp does. */
function choicesOf(message) {
  const choices = make("div", "choices");
  message.choices.forEach((title, id) => {
    const button = make("button", "choice", title);
    button.type = "button";
    button.addEventListener("click", async () => {
      const phone = shownPhone();
      const reply = { type: "INTERACTIVE_BUTTON_REPLY", id: String(id), title };
      try {
        await post("/control/phone/messages", { org: phone.org, from: phone.user, to: phone.sender, name: phone.name, message: reply });
      } catch (problem) {
        showError("write-error", problem.message);
      }
    });
    choices.append(button);
  });
  return choices;
}

function updateTick(node, message) {
  if (node.dataset.state === message.state) return;
  node.dataset.state = message.state;
  const tick = node.querySelector(".tick");
  if (!tick) return;
  const label = TICKS[message.state] ?? message.state;
  const why = message.reason ?? message.error;
  const title = message.state === "failed" && why ? `${label}: ${why}` : label;
  tick.firstElementChild.setAttribute("href", { failed: "#tick-failed", sent: "#tick-sent" }[message.state] ?? "#tick-delivered");
  tick.setAttribute("aria-label", title);
  node.querySelector(".meta").title = title;
  put(node.querySelector(".failed"), message.state === "failed" ? label : "");
}

function drawMessages(scroller, list, showing, messages, ownOf, className) {
  followEnd(scroller, showing, (switched) => {
    if (switched) list.replaceChildren();
    matchChildren(
      list,
      messages,
      (message) => message.id,
      (message) => {
        const node = make("div", `${className} ${switched ? "" : "arrived"}`);
        const text = make("p", "text", message.text);
        text.dir = "auto";
        node.append(text, messageMeta(message, ownOf(message)));
        if (message.choices) node.append(choicesOf(message));
        return node;
      },
      (node, message, index) => {
        node.classList.toggle(className === "bubble" ? "mine" : "agent", ownOf(message));
        node.classList.toggle("first", !index || ownOf(messages[index - 1]) !== ownOf(message));
        updateTick(node, message);
      },
    );
  });
}

function drawPhone() {
  const phones = allPhones();
  if (!shownPhone()) chosen.phone = phones.length ? phoneKey(phones[0]) : null;
  const phone = shownPhone();
  const elsewhere = phones.filter((other) => other !== phone).reduce((sum, other) => sum + unreadOf(other), 0);
  putCut($("owner-name"), phone ? `${personName(phone)}’s phone` : "End users");
  $("owner").setAttribute("aria-label", `${$("owner-name").textContent}, choose an end user`);
  $("owner-unread").hidden = !elsewhere;
  put($("owner-unread"), String(elsewhere));

  const company = phone ? orgTitle(phone.org) : "WhatsApp";
  putCut($("company"), company);
  put($("company-initials"), initials(company));
  putCut($("company-number"), phone ? `+${phone.sender}` : "");
  $("chat-empty").hidden = Boolean(phone?.messages.length);
  if (!state.known) put($("chat-empty"), "Connecting to the sandbox…");
  else if (!state.orgs.size) put($("chat-empty"), "No org is connected yet. End users appear here when one is.");
  else if (!phone) put($("chat-empty"), "No end users yet. Open the list above to add one by number.");
  else put($("chat-empty"), `Write to ${company} as ${personName(phone)}. What you write opens in the service console.`);
  drawMessages($("chat"), $("chat-messages"), chosen.phone ?? "", phone?.messages ?? [], (message) => message.mine, "bubble");
  $("write-text").disabled = !phone;
  if (!$("people").hidden) drawPeople();
}

function drawPeople() {
  matchChildren(
    $("people-list"),
    allPhones(),
    phoneKey,
    (phone) => {
      const item = make("li");
      const button = make("button", "person");
      button.type = "button";
      const avatar = make("span", "avatar");
      avatar.setAttribute("aria-hidden", "true");
      const who = make("span", "who");
      const name = make("bdi", "name cut");
      const last = make("bdi", "last cut");
      who.append(name, last);
      button.append(avatar, who, make("span", "badge"));
      button.addEventListener("click", () => {
        choosePhone(phoneKey(phone));
        showPeople(false);
        $("write-text").focus();
      });
      item.append(button);
      return item;
    },
    (item, phone) => {
      const unread = phoneKey(phone) === chosen.phone ? 0 : unreadOf(phone);
      const several = state.orgs.size > 1 ? ` · ${orgTitle(phone.org)}` : "";
      put(item.querySelector(".avatar"), initials(personName(phone)));
      putCut(item.querySelector(".name"), personName(phone));
      putCut(item.querySelector(".last"), phone.messages.at(-1)?.text ?? `+${phone.user}${several}`);
      item.querySelector(".badge").hidden = !unread;
      put(item.querySelector(".badge"), String(unread));
      item.firstElementChild.setAttribute("aria-current", String(phoneKey(phone) === chosen.phone));
    },
  );
}

function showPeople(open) {
  $("people").hidden = !open;
  $("owner").setAttribute("aria-expanded", String(open));
  if (!open) return;
  drawPeople();
  const senders = [...state.orgs.values()].flatMap((org) => org.senders.map((sender) => ({ org, sender })));
  $("add-sender").replaceChildren(...senders.map(({ org, sender }) => new Option(`${org.title} +${sender}`, `${org.orgId}/${sender}`)));
  $("add-sender-field").hidden = senders.length < 2;
  ($("people-list").querySelector('[aria-current="true"]') ?? $("add-number")).focus();
}

function addEndUser(event) {
  event.preventDefault();
  const user = $("add-number").value.replace(/[\s()+.-]/g, "");
  const [org, sender] = $("add-sender").value.split("/");
  const wrong = !/^[1-9]\d{6,14}$/.test(user);
  $("add-number").setAttribute("aria-invalid", String(wrong));
  if (wrong || !sender) {
    showError("add-error", wrong ? "A WhatsApp number has 7 to 15 digits and begins with its country code." : "No sender is connected yet.");
    $("add-number").focus();
    return;
  }
  const phone = { org, user, sender, name: $("add-name").value.trim(), messages: [] };
  if (!state.phones.has(phoneKey(phone))) added.set(phoneKey(phone), phone);
  showError("add-error", "");
  $("add").reset();
  choosePhone(phoneKey(phone));
  showPeople(false);
  $("write-text").focus();
}

// --- the service console

const shownSession = () => state.sessions.get(chosen.session);
const placeOfReply = () => chosen.session && `session ${chosen.session}`;

/** Active sessions before ended ones, the newest first; an arriving message moves nothing under the pointer. */
function sortedSessions() {
  const newest = [...state.sessions.values()].reverse();
  const active = newest.filter((session) => session.status !== "Ended");
  const ended = newest.filter((session) => session.status === "Ended");
  return [...active, ...ended].slice(0, SESSIONS);
}

function lookAtSession() {
  const session = shownSession();
  if (session?.unread && !document.hidden) post("/control/console/open", { session: session.session }).catch(() => {});
}

function chooseSession(id) {
  chosen.session = id;
  showDraft($("reply-text"), "reply-error", placeOfReply());
  lookAtSession();
  draw(drawConsole);
}

function drawSessions() {
  const sessions = sortedSessions();
  const list = $("sessions-list");
  const focused = list.contains(document.activeElement);
  $("sessions-empty").hidden = sessions.length > 0;
  if (state.known) put($("sessions-empty"), "A session appears here when an end user writes.");
  const count = (status) => [...state.sessions.values()].filter((session) => session.status === status).length;
  put($("session-count"), sessions.length ? `(${state.sessions.size})` : "");
  $("session-count").title = `${count("Active")} active, ${count("Waiting")} waiting, ${count("Ended")} ended`;
  matchChildren(
    list,
    sessions,
    (session) => session.session,
    (session) => {
      const item = make("li", `session ${state.known ? "arrived" : ""}`);
      item.setAttribute("role", "option");
      const avatar = make("span", "avatar");
      avatar.setAttribute("aria-hidden", "true");
      const who = make("div", "cut");
      const name = make("p", "name cut");
      const last = make("p", "last cut");
      name.dir = last.dir = "auto";
      name.style.textAlign = last.style.textAlign = "left";
      who.append(name, last);
      const side = make("div", "side");
      side.append(make("span", "when"), make("span", "badge"));
      item.append(avatar, who, side);
      item.addEventListener("click", () => chooseSession(session.session));
      return item;
    },
    (item, session) => {
      const last = session.messages.at(-1);
      const isChosen = session.session === chosen.session;
      item.dataset.status = session.status;
      item.setAttribute("aria-selected", String(isChosen));
      item.tabIndex = isChosen || (!shownSession() && session === sessions[0]) ? 0 : -1;
      put(item.querySelector(".avatar"), initials(personName(session)));
      putCut(item.querySelector(".name"), personName(session));
      putCut(item.querySelector(".last"), last ? `${last.from === "Agent" ? "You: " : ""}${last.text}` : `+${session.user}`);
      put(item.querySelector(".when"), session.status !== "Active" ? session.status : last ? clock(last.at) : "");
      const badge = item.querySelector(".badge");
      badge.hidden = !session.unread || (isChosen && !document.hidden); // what is being looked at is about to be read
      badge.setAttribute("aria-label", `${session.unread} unread`);
      put(badge, String(session.unread));
    },
  );
  if (focused) list.querySelector('[aria-selected="true"]')?.focus(); // a moved node loses its focus
}

function drawConsole() {
  const titles = [...state.orgs.values()].map((org) => org.title).join(", ");
  putCut($("org-names"), titles);
  drawFrame();
  $("admin").hidden = !state.adminUrl;
  if (state.adminUrl) $("admin").href = state.adminUrl;
  if (!shownSession() && state.sessions.size) return chooseSession(sortedSessions()[0].session);
  drawSessions();

  const session = shownSession();
  const active = session?.status === "Active";
  const waiting = session?.status === "Waiting";
  $("conversation-empty").hidden = Boolean(session);
  $("session-header").hidden = $("conversation").hidden = !session;
  $("reply").hidden = !active;
  $("ended").hidden = !session || active || waiting;
  $("accept").hidden = !waiting;
  $("transfer").hidden = !active || !session.rep;
  if (!session) return undefined;
  putCut($("session-name"), personName(session));
  put($("session-initials"), initials(personName(session)));
  putCut($("session-detail"), `WhatsApp +${session.user} · ${session.session}${session.rep ? ` · ${session.rep}` : ""}${state.orgs.size > 1 ? ` · ${orgTitle(session.org)}` : ""}`);
  put($("session-status"), session.status);
  $("session-status").classList.toggle("good", active);
  $("session-status").classList.toggle("trouble", waiting);
  $("end").hidden = !active;
  const newer = newerSession(session);
  putCut($("ended-text"), newer ? `${personName(session)} wrote again.` : "This session has ended. A new one begins when the end user writes again.");
  $("newer").hidden = !newer;
  drawMessages($("conversation"), $("conversation-messages"), session.session, session.messages, (message) => message.from === "Agent", "message");
  return undefined;
}

function newerSession(session) {
  const same = [...state.sessions.values()].filter((other) => other.org === session.org && other.conversation === session.conversation);
  return same.slice(same.indexOf(session) + 1).at(-1);
}

/** Do to the shown session what the button with that id says. */
async function changeSession(id) {
  const session = shownSession();
  $(id).setAttribute("aria-busy", "true");
  showError("reply-error", "");
  try {
    await post(`/control/console/${id}`, { org: session.org, session: session.session });
  } catch (problem) {
    showError("reply-error", problem.message);
  } finally {
    $(id).removeAttribute("aria-busy");
  }
}

function moveInSessions(event) {
  const sessions = sortedSessions();
  const here = sessions.findIndex((session) => session.session === chosen.session);
  const there = { ArrowUp: here - 1, ArrowDown: here + 1, Home: 0, End: sessions.length - 1 }[event.key];
  if (event.key === "Enter") $("reply-text").focus();
  if (there === undefined || !sessions[there]) return;
  event.preventDefault();
  chooseSession(sessions[there].session);
}

// --- what can be broken

const isOn = (place) => (fault) => fault.where === place && fault.what === "status" && fault.status === 500;
const faultsOf = (button) => state.faults.filter((fault) => (button.places ?? []).some((place) => isOn(place)(fault)));

function note(text, bad = false) {
  putCut($("fault-note"), text);
  $("fault-note").classList.toggle("bad", bad);
}

async function breakIt(button) {
  const mine = faultsOf(button);
  if (button.path) {
    await post(button.path, button.body);
  } else if (!mine.length) {
    for (const where of button.places) await post("/control/faults", { where, what: "status", status: 500, count: null });
  } else {
    for (const { id } of mine) await call("DELETE", `/control/faults/${id}`);
    return note("It answers again.");
  }
  return note(button.note);
}

function makeButtons() {
  for (const button of BREAKS) {
    const node = make("button", `button ${button.places || button.wide ? "wide" : ""}`);
    node.type = "button";
    node.id = `break-${button.id}`;
    node.append(make("span", "", button.label), make("span", "count"));
    node.addEventListener("click", async () => {
      node.setAttribute("aria-busy", "true");
      try {
        await breakIt(button);
      } catch (problem) {
        note(problem.message, true);
      } finally {
        node.removeAttribute("aria-busy");
      }
    });
    $("fault-buttons").append(node);
  }
}

function drawFaults() {
  for (const button of BREAKS.filter((each) => each.places)) {
    const on = faultsOf(button);
    const times = on.reduce((sum, fault) => sum + (fault.used ?? 0), 0);
    const node = $(`break-${button.id}`);
    node.setAttribute("aria-pressed", String(on.length > 0));
    put(node.querySelector(".count"), on.length ? `· on, ${times} ${times === 1 ? "time" : "times"}` : "");
  }
}

/** Ask how often the faults have struck: the live stream tells only when one is turned on or off. */
async function countFaults() {
  if (!state.faults.length || document.hidden || !$("lost").hidden) return;
  try {
    taken.faults((await call("GET", "/control/faults")).faults);
  } catch {
    // The live stream notices a lost connection and says so.
  }
}

function drawProcesses() {
  matchChildren(
    $("processes"),
    state.processes,
    (process) => process.name,
    () => {
      const item = make("li", "process");
      item.append(make("span", "name cut"), make("span", "weak"));
      return item;
    },
    (item, process) => {
      item.dataset.alive = String(process.alive);
      put(item.querySelector(".name"), process.name);
      put(item.querySelector(".weak"), process.alive ? String(process.pid) : "restarting…");
      item.title = process.alive ? `${process.name} runs, process ${process.pid}` : `${process.name} has stopped and is being started again`;
    },
  );
}

// --- the wire

function drawHops(way, node) {
  const timed = way.hops.filter((hop) => hop.ms > 0);
  const colour = (hop) => `var(--hop-${(timed.indexOf(hop) % HOP_COLOURS) + 1})`;
  const hops = way.hops.map((hop) => {
    const span = make("span", "hop", hop.text);
    if (hop.ms > 0) {
      span.style.setProperty("--hop", colour(hop));
      span.append(make("span", "ms", duration(hop.ms)));
    }
    return span;
  });
  if (way.trouble) hops.push(make("span", `pill ${way.failed ? "bad" : "trouble"}`, way.trouble));
  else if (way.done && healing.has(way.id)) hops.push(make("span", "pill good", "Went through after trouble"));
  else if (!way.done && !hops.length) hops.push(make("span", "weak", "On its way…"));
  node.querySelector(".hops").replaceChildren(...hops.flatMap((hop) => [hop, " "]));
  node.querySelector(".bar").replaceChildren(
    ...timed.map((hop) => {
      const part = make("i");
      part.style.setProperty("--hop", colour(hop));
      part.style.flexGrow = String(hop.ms * 1000); // a sum below one would not fill the bar
      part.title = `${hop.text}: ${duration(hop.ms)}`;
      return part;
    }),
  );
}

function drawTotal(way, node) {
  const total = node.querySelector(".total");
  const running = way.total == null && !way.done;
  total.classList.toggle("running", running);
  total.classList.toggle("bad", Boolean(way.failed));
  put(total, way.failed ? "Failed" : way.total != null ? duration(way.total) : running ? `${duration(Math.max(0, Date.now() - way.at))}…` : "–");
}

function drawWire() {
  const ways = [...state.wire.values()];
  $("wire-empty").hidden = ways.length > 0;
  followEnd($("wire-scroll"), "wire", () =>
    matchChildren(
      $("wire-rows"),
      ways,
      (way) => way.id,
      (way) => {
        const node = make("li", "way");
        node.dataset.direction = way.direction;
        const towards = icon(way.direction === "in" ? "icon-in" : "icon-out");
        towards.setAttribute("role", "img");
        towards.removeAttribute("aria-hidden");
        towards.setAttribute("aria-label", way.direction === "in" ? "From the end user" : "From the rep");
        const at = make("time", "at", preciseClock(way.at));
        at.dateTime = new Date(way.at).toISOString();
        const rows = make("a", "rows", "Stored rows");
        rows.target = "_blank";
        rows.rel = "noopener";
        const words = make("span", "words cut");
        words.dir = "auto";
        putCut(words, way.text ?? orgTitle(way.org));
        node.append(at, towards, words, make("div", "bar"), make("span", "total"), rows, make("div", "hops"));
        return node;
      },
      (node, way) => {
        drawTotal(way, node);
        const shown = JSON.stringify(way);
        if (node.dataset.shown === shown) return;
        node.dataset.shown = shown;
        node.dataset.done = String(way.done);
        drawHops(way, node);
        const rows = node.querySelector(".rows");
        rows.hidden = !way.uuid || !state.adminUrl;
        if (!rows.hidden) rows.href = `${state.adminUrl.replace(/\/*$/, "/")}messaging/message/?uuid__exact=${encodeURIComponent(way.uuid)}`;
      },
    ),
  );
}

// --- the live stream

function takeWay(way) {
  if (way.id <= lastDropped) return; // news of it was under way when it was dropped
  if (way.trouble) healing.add(way.id);
  state.wire.set(way.id, way);
  while (state.wire.size > WIRE_ROWS) {
    const [oldest] = state.wire.keys();
    state.wire.delete(oldest);
    healing.delete(oldest);
    lastDropped = oldest;
  }
}

const taken = {
  state(whole) {
    if (!state.known) for (const phone of whole.phones) lookedAt.set(phoneKey(phone), Date.now());
    state.orgs = new Map(whole.orgs.map((org) => [org.orgId, org]));
    state.phones = new Map(whole.phones.map((phone) => [phoneKey(phone), phone]));
    state.sessions = new Map(whole.sessions.map((session) => [session.session, session]));
    state.wire = new Map();
    lastDropped = 0;
    whole.wire.forEach(takeWay);
    state.faults = whole.faults;
    state.processes = whole.processes;
    state.adminUrl = whole.adminUrl ?? "";
    state.setupUrl = whole.setupUrl ?? "";
    state.known = true;
    $("lost").hidden = true;
    draw(drawPhone, drawConsole, drawFaults, drawProcesses, drawWire, lookAtPhone, lookAtSession);
  },
  phone(phone) {
    const key = phoneKey(phone);
    const before = state.phones.get(key);
    const last = phone.messages.at(-1);
    const received = last && !last.mine && last.id !== before?.messages.at(-1)?.id;
    state.phones.set(key, phone);
    if (received) announce(orgTitle(phone.org), last.text);
    if (key === chosen.phone && (received || !before)) lookAtPhone();
    draw(drawPhone);
  },
  session(session) {
    const before = state.sessions.get(session.session)?.messages.at(-1)?.id;
    const last = session.messages.at(-1);
    state.sessions.set(session.session, session);
    if (last?.from === "EndUser" && last.id !== before) announce(personName(session), last.text);
    if (session.session === chosen.session) lookAtSession();
    draw(drawConsole);
  },
  wire(way) {
    takeWay(way);
    draw(drawWire);
  },
  faults(faults) {
    state.faults = faults;
    draw(drawFaults);
  },
  processes(processes) {
    state.processes = processes;
    draw(drawProcesses);
  },
};

function connect() {
  const live = new EventSource("/control/live");
  for (const [name, take] of Object.entries(taken)) live.addEventListener(name, (event) => take(JSON.parse(event.data)));
  live.onerror = () => {
    // The browser gives up on some failures and waits long on others: begin anew ourselves.
    live.close();
    $("lost").hidden = false;
    setTimeout(connect, RETRY_MS);
  };
}

// --- beginning

textForm($("write"), $("write-text"), "write-error", placeOfPhone, (text) => {
  const { user, sender, name } = shownPhone();
  return post("/control/phone/messages", { from: user, to: sender, name, text });
});
textForm($("reply"), $("reply-text"), "reply-error", placeOfReply, (text) => {
  const { org, conversation } = shownSession();
  return post("/control/console/replies", { org, conversation, text });
});
$("owner").addEventListener("click", () => showPeople($("people").hidden));
$("add").addEventListener("submit", addEndUser);
$("phone").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("people").hidden) {
    showPeople(false);
    $("owner").focus();
  }
});
$("sessions-list").addEventListener("keydown", moveInSessions);
for (const id of ["accept", "transfer", "end"]) $(id).addEventListener("click", () => changeSession(id));
$("newer").addEventListener("click", () => {
  chooseSession(newerSession(shownSession()).session);
  draw(() => $("reply-text").focus());
});
document.addEventListener("visibilitychange", () => {
  lookAtPhone();
  lookAtSession();
});
setInterval(() => {
  for (const node of $("wire-rows").children) {
    const way = state.wire.get(node.dataset.key) ?? state.wire.get(Number(node.dataset.key));
    if (way && !way.done) drawTotal(way, node);
  }
}, ELAPSED_MS);
setInterval(countFaults, FAULTS_MS);
makeButtons();
drawFaults();
connect();
