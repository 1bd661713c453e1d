// The page: displays what the address says, and server-sent events keep it up to date.

import { bar, count, el, pill, since, age, now, time } from "./dom.js";
import { verbButton } from "./verbs.js";
import { jobView } from "./job.js";

const $ = (id) => document.getElementById(id);
const main = $("main");
let source = null;
let view = null;

// Routes ---------------------------------------------------------------------------------------------------------------

function route() {
  const [path, query] = location.hash.slice(1).split("?");
  const asked = new URLSearchParams(query);
  view?.close?.();
  if (path.startsWith("/job/")) view = jobView(decodeURIComponent(path.slice(5)));
  else if (path === "/dead-letters") view = lettersView();
  else view = jobsView(asked.get("status") ?? "", asked.get("cursor") ?? "");
  document.title = `${view.title} · media-worker`;
  $("nav-jobs").ariaCurrent = path === "/dead-letters" ? null : "page";
  $("nav-letters").ariaCurrent = path === "/dead-letters" ? "page" : null;
  main.replaceChildren(view.element);
  connect();
}

// Updates --------------------------------------------------------------------------------------------------------------

function connect() {
  source?.close();
  live("connecting", "");
  source = new EventSource(`/api/events?${view.feed}`);
  const current = view;
  const on = (name, handle) => source.addEventListener(name, (event) => current === view && handle(JSON.parse(event.data)));
  source.onopen = () => live("live", "is-live");
  source.onerror = () => {
    live("not connected", "is-lost");
    problem({ text: "The server of this page does not answer. Start `media-worker ui` again and open the address that it prints." });
  };
  on("stack", showStack);
  on("queues", showQueues);
  on("problem", (found) => { problem(found); current.problem?.(found); });
  for (const name of ["jobs", "job", "segments"]) on(name, (data) => current[name]?.(data));
}

function live(text, kind) {
  $("live").textContent = text;
  $("live").className = `live ${kind}`;
}

function problem(found) {
  const box = $("problem");
  box.hidden = !found;
  box.textContent = found ? found.text : "";
}

function showStack({ label }) {
  $("stack").textContent = label;
}

function showQueues(queues) {
  const dead = queues.reduce((sum, queue) => sum + queue.dead, 0);
  $("dead-count").textContent = dead;
  $("dead-count").hidden = !dead;
  view.queues?.(queues);
}

// A hidden page needs no updates, and a browser allows few connections to a server.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else connect();
});

// Jobs -----------------------------------------------------------------------------------------------------------------

const FILTERS = [
  ["", "All", []],
  ["active", "At work", ["created", "ingesting", "chunking_in_progress", "chunking_complete", "reassembling"]],
  ["completed", "Completed", ["completed"]],
  ["failed", "Failed", ["failed"]],
  ["deleted", "Deleted", ["deleted"]],
];

function jobsView(filter, cursor) {
  const statuses = (FILTERS.find(([name]) => name === filter) ?? FILTERS[0])[2];
  const queues = el("section.queues", { "aria-label": "Queues" });
  const body = el("tbody");
  const table = el("table.jobs", { "aria-label": "Jobs, newest first", hidden: true },
    el("thead", {}, el("tr", {}, ...["Job", "Status", "Segments", "Age", "Duration"].map((name) => el("th", { scope: "col" }, name)))), body);
  const empty = el("div.empty", {}, el("p", {}, "Reading the jobs …"));
  const older = el("a.button", { hidden: true }, "Older jobs →");
  const newest = el("a.button", { hidden: !cursor, href: link(filter) }, "← Newest jobs");
  const tabs = FILTERS.map(([name, label]) => el("a", { href: link(name), "aria-current": name === filter ? "page" : null }, label));
  let listed = [];
  const draw = () => body.replaceChildren(...listed.map(jobRow));
  const timer = setInterval(() => body.contains(document.activeElement) || draw(), 5000); // ages

  return {
    title: "Jobs",
    feed: new URLSearchParams([["view", "jobs"], ...statuses.map((status) => ["status", status]), ...(cursor ? [["cursor", cursor]] : [])]),
    element: el("div", {}, queues, el("div.heading", {}, el("h1", {}, "Jobs"), el("nav.tabs", { "aria-label": "Filter" }, tabs)), table, empty, el("div.pages", {}, newest, older)),
    close: () => clearInterval(timer),
    queues: (data) => queues.replaceChildren(...data.map(queueCard)),
    problem: (found) => { if (found && table.hidden) empty.replaceChildren(...unreachable()); },
    jobs({ jobs, next }) {
      const focused = document.activeElement?.dataset?.job;
      listed = jobs;
      draw();
      if (focused) body.querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
      table.hidden = !jobs.length;
      empty.hidden = Boolean(jobs.length);
      empty.replaceChildren(...(filter || cursor ? [el("p", {}, "There are no such jobs.")] : noJobs()));
      older.hidden = !next;
      if (next) older.href = `${link(filter)}${filter ? "&" : "?"}cursor=${next}`;
    },
  };
}

const link = (filter) => (filter ? `#/?status=${filter}` : "#/");

function noJobs() {
  return [
    el("h2", {}, "No jobs yet"),
    el("p", {}, "Submit a video in a terminal. It appears here at once:"),
    el("pre", {}, "media-worker submit my.mp4"),
    el("p", {}, "Its segments wait in the segment queue until a worker processes them:"),
    el("pre", {}, "media-worker work -- ffmpeg -i {input} -vf negate {output}"),
  ];
}

function unreachable() {
  return [el("h2", {}, "The stack cannot be reached"), el("p", {}, "The message above says why. This page reads it again by itself: no reload is needed.")];
}

function jobRow(job) {
  const ended = job.ended_at ?? (["completed", "failed"].includes(job.status) ? null : now());
  const segments = job.segments === null ? "–" : job.processed === null ? `${job.segments}` : `${job.processed}/${job.segments}`;
  return el("tr", {},
    el("td.name", {}, el("a", { href: `#/job/${encodeURIComponent(job.job_id)}`, "data-job": job.job_id }, job.job_id),
      job.title && el("small", {}, job.title), (job.error ?? job.notice) && el(`small.${job.error ? "bad" : "notice"}`, { title: job.error ?? job.notice }, job.error ?? job.notice)),
    el("td", { "data-label": "Status" }, pill(job.status)),
    el("td", { "data-label": "Segments" }, el("span.count", {}, segments), job.processed === null ? null : bar(job.processed, job.segments, `${job.processed} of ${job.segments} segments processed`)),
    el("td", { "data-label": "Age", title: time(job.created_at) }, since(job.created_at)),
    el("td", { "data-label": "Duration" }, ended === null ? "–" : age(ended - job.created_at)));
}

const QUEUES = { chunking: "Chunking queue", segments: "Segment queue", reassembly: "Reassembly queue" };

function queueCard(queue) {
  const fact = (name, value, kind = "") => el(`div${kind}`, {}, el("dt", {}, name), el("dd", {}, String(value)));
  return el("div.card", {}, el("h2", {}, QUEUES[queue.name] ?? queue.name),
    el("dl", {}, fact("waiting", queue.waiting), fact("in work", queue.in_flight), fact("dead letters", queue.dead, queue.dead ? ".bad" : "")));
}

// Dead letters ---------------------------------------------------------------------------------------------------------

function lettersView() {
  const list = el("div.letters", {}, el("p", {}, "Reading the dead-letter queues …"));
  const chosen = new Set();
  let letters = [];
  let depth = null;
  const buttons = el("div.buttons");

  async function load() {
    list.setAttribute("aria-busy", "true");
    try {
      const response = await fetch("/api/letters");
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      letters = answer.letters;
      chosen.clear();
      draw();
    } catch (error) {
      list.replaceChildren(el("p.bad", {}, `The dead letters cannot be read: ${error.message}`));
    }
    list.removeAttribute("aria-busy");
  }
  function draw() {
    list.replaceChildren(...(letters.length ? letters.map(card) : [el("div.empty", {}, el("h2", {}, "No dead letters"), el("p", {}, "Messages whose attempts are all used up appear here, with the reason."))]));
    drawButtons();
  }
  function drawButtons() {
    const ids = letters.map((letter) => letter.id).filter((id) => !chosen.size || chosen.has(id));
    const question = { title: `Redrive ${count(ids.length, "message")}?`, text: "They are sent to their queues again, with a receive count of zero. Fix the cause first, or they fail again.", action: "Redrive" };
    const redrive = verbButton(chosen.size ? `Redrive ${count(ids.length, "selected message")}` : "Redrive all", question, () => ({ verb: "redrive", messages: ids }), { after: load });
    redrive.disabled = !letters.length;
    buttons.replaceChildren(redrive, el("button", { type: "button", onclick: load }, "Read again"));
  }
  function card(letter) {
    const choose = el("input", { type: "checkbox", "aria-label": `Select the message about ${letter.job_id ?? "no job"}`, onchange: (event) => { event.target.checked ? chosen.add(letter.id) : chosen.delete(letter.id); drawButtons(); } });
    return el("article.card", {}, el("div.line", {}, choose, letter.job_id ? el("a", { href: `#/job/${encodeURIComponent(letter.job_id)}` }, letter.job_id) : el("span", {}, "no job"), el("span.muted", {}, `${letter.queue} queue, sent ${since(letter.sent_at)} ago`)),
      el("p.bad", {}, letter.reason), el("details", {}, el("summary", {}, `Message ${letter.id}`), el("pre", {}, letter.body)));
  }
  drawButtons();
  load();
  return {
    title: "Dead letters",
    feed: new URLSearchParams([["view", "jobs"], ["status", "failed"]]),
    element: el("div", {}, el("div.heading", {}, el("h1", {}, "Dead letters"), buttons), list),
    queues(queues) {
      const found = queues.reduce((sum, queue) => sum + queue.dead, 0);
      if (depth !== null && found > depth) load();
      depth = found;
    },
  };
}

addEventListener("hashchange", route);
if (location.search) history.replaceState(null, "", `/${location.hash}`); // the cookie replaces the token
route();
