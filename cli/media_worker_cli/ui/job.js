// One job: its segments, who worked on them and when, its attempts and errors, its videos, and its verbs.

import { age, bar, clock, count, el, fill, hour, now, pill, ranges, sign, since, size, time } from "./dom.js";
import { verbButton } from "./verbs.js";
import { createPlayer } from "./player.js";

const STATES = ["done", "running", "failed", "waiting", "planned"];
// With more segments than this, the cells are small and show their sign only.
const LARGE_GRID = 300;
const FAILURES_LISTED = 200;

export function jobView(jobId) {
  const segments = new Map();
  const selected = new Set();
  let job = null;
  let current = 0;
  let anchor = null;

  const head = el("div.heading");
  const notes = el("div");
  const progress = el("div.progress");
  const grid = el("div.grid", { role: "listbox", "aria-multiselectable": "true", "aria-label": "Segments. Arrow keys move, space selects, Enter shows details." });
  const legend = el("div.legend");
  const tools = el("div.buttons");
  const detail = el("div.detail", { "aria-live": "polite" });
  const lanes = el("div.lanes");
  const failures = el("div");
  const facts = el("dl.facts");
  const events = el("ol.events");
  const player = createPlayer(jobId);
  const missing = el("div.empty", {}, el("p", {}, "Reading the job …"));
  const segmentsBox = el("section.card", { "aria-label": "Segments" }, el("h2", {}, "Segments"), legend, grid, tools, detail);
  const body = el("div", { hidden: true }, notes, progress, segmentsBox,
    el("section.card", { "aria-label": "Workers" }, el("h2", {}, "Who worked on what"), lanes),
    player.element,
    el("div.columns", {}, el("section.card", {}, el("h2", {}, "Attempts that failed"), failures), el("section.card", {}, el("h2", {}, "What happened"), events)),
    el("section.card", {}, el("h2", {}, "Details"), facts));

  // The verbs ----------------------------------------------------------------------------------------------------------

  const verb = (label, allowed, question, request, options) => {
    const button = verbButton(label, question, (answer) => ({ job: jobId, ...request(answer) }), options);
    return { button, allowed };
  };
  const verbs = [
    verb("Cancel", "cancel", { title: `Cancel ${jobId}?`, text: "No new segment is started, and workers stop at their next heartbeat. What is processed stays; a retry goes on from there.", action: "Cancel the job", danger: true }, () => ({ verb: "cancel" })),
    verb("Retry", "retry", { title: `Retry ${jobId}?`, text: "The job goes on where it stopped. Processed segments are kept.", action: "Retry the job" }, () => ({ verb: "retry" })),
    verb("Resend segments", "resend", { title: "Announce the segments again?", text: "A message for each segment without a result is sent to the workers. Use it when messages were lost or have expired.", action: "Resend" }, () => ({ verb: "resend" })),
    verb("Delete", "delete", { title: `Delete ${jobId}?`, text: "This deletes its source, segments, results and rows. It cannot be undone.", action: "Delete the job", option: "Keep the final video", danger: true }, ({ checked }) => ({ verb: "delete", keep_final: checked }), { danger: true }),
  ];
  const verbBox = el("div.buttons", { role: "group", "aria-label": "Actions" }, verbs.map(({ button }) => button));
  const retrySelected = verbButton("Retry selected", () => ({ title: `Process ${count(selected.size, "segment")} again?`, text: `Segments ${ranges(selected)} are processed again and the video is joined again. The present final stays until the new one is complete.`, action: "Retry segments" }),
    () => ({ job: jobId, verb: "retry", segments: ranges(selected) }), { after: () => { selected.clear(); drawSelection(); } });
  const selectFailed = el("button", { type: "button", onclick: () => { for (const each of segments.values()) if (each.state === "failed") selected.add(each.index); drawSelection(); } }, "Select failed");
  const clear = el("button", { type: "button", onclick: () => { selected.clear(); drawSelection(); } }, "Clear");
  tools.append(retrySelected, selectFailed, clear, el("span.muted", { id: "selection" }));

  // The head -----------------------------------------------------------------------------------------------------------

  function drawJob() {
    document.title = `${job.title ?? jobId} · media-worker`;
    const name = el("div", {}, el("a.up", { href: "#/" }, "← Jobs"), el("h1", {}, job.title ?? jobId), el("p.id", {}, el("code", {}, jobId), " ", pill(job.status)));
    if (!head.contains(verbBox)) head.append(name, verbBox);
    else if (!head.firstChild.isEqualNode(name)) head.replaceChild(name, head.firstChild);
    for (const { button, allowed } of verbs) button.hidden = !job.can[allowed];
    fill(notes, job.error && el("p.note.bad", {}, el("strong", {}, "Error: "), job.error), job.notice && el("p.note", {}, job.notice));
    const total = job.total_segments;
    const left = job.remaining_s === null ? null : `about ${age(job.remaining_s)} left`;
    fill(progress, total ? bar(job.processed, total, "Segments processed") : bar(0, 0, "Not split yet"),
      el("p", {}, el("strong", {}, total ? `${job.processed} of ${count(total, "segment")} processed` : "The source is not split yet"), left && el("span.muted", {}, ` · ${left}`)));
    drawFacts();
    fill(events, job.timeline.map((event) => el("li", {}, el("time", { title: time(event.at) }, hour(event.at)), " ", event.what)));
    player.update(job);
  }

  function drawFacts() {
    const { source, plan, final, cost } = job;
    const fact = (name, ...value) => value[0] && [el("dt", {}, name), el("dd", {}, value)];
    fill(facts,
      fact("Created", time(job.created_at)),
      fact("Source", source ? [size(source.size_bytes), source.duration_s && clock(source.duration_s), ...(source.tracks ?? [])].filter(Boolean).join(", ") : "does not exist any more"),
      fact("Plan", plan && `${plan.engine} engine, ${count(plan.frames, "frame")}, ${clock(plan.duration_s)}, ${plan.wanted}`),
      fact("Final", final ? size(final.size_bytes) : "does not exist"),
      fact("Cost so far", `about $${cost.total.toFixed(4)} without workers (functions ${cost.functions.toFixed(4)}, requests ${cost.requests.toFixed(4)}, storage ${cost.storage.toFixed(4)})`),
      fact("Source object", source && el("code", {}, source.uri)),
      fact("Final object", final && el("code", {}, final.uri)));
  }

  // The segments -------------------------------------------------------------------------------------------------------

  function describe(each) {
    const percent = each.state === "running" && each.attempt?.progress !== undefined ? ` ${Math.round(100 * each.attempt.progress)} %` : "";
    return `segment ${each.index}: ${each.state}${percent}`;
  }

  function drawCell(each) {
    let cell = grid.children[each.index];
    if (!cell) {
      cell = el("div", { role: "option", id: `segment-${each.index}`, tabindex: each.index === current ? 0 : -1, "data-index": each.index }, el("span.number", {}, String(each.index)), el("span.sign", { "aria-hidden": "true" }));
      grid.append(cell);
    }
    cell.className = `cell is-${each.state}`;
    cell.setAttribute("aria-label", describe(each));
    cell.title = describe(each);
    cell.setAttribute("aria-selected", selected.has(each.index));
    cell.lastChild.textContent = sign(each.state);
    cell.style.setProperty("--done", each.state === "running" ? `${100 * (each.attempt?.progress ?? 0)}%` : "0%");
  }

  function drawSelection() {
    for (const cell of grid.children) cell.setAttribute("aria-selected", selected.has(Number(cell.dataset.index)));
    const failed = [...segments.values()].filter((each) => each.state === "failed").length;
    retrySelected.disabled = !selected.size || !job?.can.retry_segments;
    retrySelected.title = job?.can.retry_segments ? "" : "Segments of a failed or completed job can be retried";
    selectFailed.hidden = !failed;
    clear.hidden = !selected.size;
    tools.lastChild.textContent = selected.size ? `${count(selected.size, "segment")} selected: ${ranges(selected)}` : "Click or press space to select segments, with shift for a range.";
  }

  function drawSegments() {
    segmentsBox.hidden = !segments.size;
    grid.classList.toggle("is-large", segments.size > LARGE_GRID);
    const counts = Object.groupBy([...segments.values()], (each) => each.state);
    fill(legend, STATES.filter((state) => counts[state]).map((state) => el("span", {}, el(`span.key.is-${state}`, { "aria-hidden": "true" }, sign(state)), `${state} ${counts[state].length.toLocaleString("en")}`)));
    drawSelection();
    drawDetail();
    drawLanes();
    drawFailures();
  }

  function drawDetail() {
    const each = segments.get(current);
    if (!each || !detail.dataset.open) return;
    const a = each.attempt;
    fill(detail, el("h3", {}, `Segment ${each.index}`), el("p", {}, pill(each.state), each.start_s === undefined ? "" : ` ${clock(each.start_s)} to ${clock(each.start_s + each.duration_s)}, ${count(each.frames, "frame")}`),
      a && el("p", {}, `Attempt ${a.attempt} by ${a.worker}, started ${time(a.started_at)}`, each.completed_at ? `, processed ${time(each.completed_at)}` : ""),
      a?.error && each.state !== "done" && el("p.bad", {}, a.error));
  }

  function focusCell(index) {
    if (index < 0 || index >= grid.children.length) return;
    setCurrent(index);
    grid.children[index].focus();
  }

  // Tab reaches one cell of the grid: the one that had the focus last.
  function setCurrent(index) {
    grid.children[current]?.setAttribute("tabindex", -1);
    current = index;
    grid.children[index].setAttribute("tabindex", 0);
  }

  function select(index, withRange) {
    if (withRange && anchor !== null) for (let i = Math.min(anchor, index); i <= Math.max(anchor, index); i++) selected.add(i);
    else if (selected.has(index)) selected.delete(index);
    else selected.add(index);
    anchor = index;
    drawSelection();
  }

  grid.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    focusCell(Number(cell.dataset.index));
    select(current, event.shiftKey);
    detail.dataset.open = "yes";
    drawDetail();
  });
  grid.addEventListener("focusin", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) setCurrent(Number(cell.dataset.index));
  });
  grid.addEventListener("keydown", (event) => {
    const columns = Math.max(1, [...grid.children].findIndex((cell) => cell.offsetTop > grid.firstChild.offsetTop));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -current, End: grid.children.length - 1 - current }[event.key];
    if (step !== undefined) focusCell(current + step);
    else if (event.key === " ") select(current, event.shiftKey);
    else if (event.key === "Enter") { detail.dataset.open = "yes"; drawDetail(); } else return;
    event.preventDefault();
  });

  // Who worked on what -------------------------------------------------------------------------------------------------

  function drawLanes() {
    const tried = [...segments.values()].filter((each) => each.attempt);
    if (!tried.length) return fill(lanes, el("p.muted", {}, "No worker has reported an attempt. Workers of the kit do so; others need not."));
    const end = (each) => (each.state === "running" ? now() : each.completed_at ?? each.attempt.heartbeat_at);
    const first = Math.min(...tried.map((each) => each.attempt.started_at));
    const last = Math.max(first + 1, ...tried.map(end));
    const workers = Map.groupBy(tried, (each) => each.attempt.worker);
    const at = (moment) => (100 * (moment - first)) / (last - first);
    const rows = [...workers].sort().map(([worker, mine]) => el("div.lane", {}, el("span.worker", { title: worker }, worker),
      el("div.track", { role: "img", "aria-label": `${worker}: ${mine.map((each) => `segment ${each.index} from ${hour(each.attempt.started_at)} to ${hour(end(each))}, ${each.state}`).slice(0, 50).join("; ")}` },
        mine.map((each) => {
          const block = el(`span.block.is-${each.state}`, { title: `${describe(each)}, ${hour(each.attempt.started_at)} to ${hour(end(each))} (${age(end(each) - each.attempt.started_at)})` }, `${sign(each.state)} ${each.index}`);
          block.style.left = `${at(each.attempt.started_at)}%`;
          block.style.width = `max(3px, ${at(end(each)) - at(each.attempt.started_at)}%)`;
          return block;
        }))));
    lanes.replaceChildren(...rows, el("div.lane.axis", {}, el("span"), el("div.ends", {}, el("time", {}, hour(first)), el("span.muted", {}, age(last - first)), el("time", {}, hour(last)))));
  }

  function drawFailures() {
    const all = [...segments.values()].flatMap((each) => (each.attempt?.failures ?? []).map((failure) => ({ index: each.index, ...failure }))).sort((a, b) => b.at - a.at);
    fill(failures, all.length ? el("ul.failures", {}, all.slice(0, FAILURES_LISTED).map((each) => el("li", {}, el("strong", {}, `Segment ${each.index}, attempt ${each.attempt}`), el("span.muted", {}, ` ${each.worker}, ${hour(each.at)}`), el("pre", {}, each.error)))) : el("p.muted", {}, "None."));
  }

  return {
    title: jobId,
    feed: new URLSearchParams([["view", "job"], ["job", jobId]]),
    element: el("div", {}, head, missing, body),
    close: () => player.close(),
    problem(found) {
      if (!found || job) return;
      missing.replaceChildren(el("h2", {}, found.is_missing ? "There is no such job" : "The job cannot be read"), el("p", {}, found.text), el("a.button", { href: "#/" }, "← Jobs"));
    },
    job(data) {
      job = data;
      missing.hidden = true;
      body.hidden = false;
      drawJob();
      segmentsBox.hidden = !segments.size;
      drawSelection();
    },
    segments({ all, segments: changed }) {
      if (all) {
        segments.clear();
        grid.replaceChildren();
        current = 0;
      }
      for (const each of changed) {
        segments.set(each.index, each);
        drawCell(each);
      }
      drawSegments();
    },
  };
}
