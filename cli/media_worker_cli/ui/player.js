// Source and final in sync: side by side, or one over the other with a slider between the two frames.

import { clock, el } from "./dom.js";

// Above the first difference the final's speed is changed a little, above the second it jumps.
const DRIFT_S = 0.03;
const JUMP_S = 0.3;

export function createPlayer(jobId) {
  const source = video("Source", true);
  const final = video("Final", false);
  const both = [source, final];
  const seek = el("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Position", oninput: () => jump(Number(seek.value)) });
  const position = el("span.muted.position", {}, "0:00:00");
  const play = el("button.primary", { type: "button", onclick: toggle }, "Play");
  const mute = el("button", { type: "button", "aria-pressed": "false", onclick: () => { final.muted = !final.muted; mute.setAttribute("aria-pressed", final.muted); } }, "Mute");
  const wipe = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Border between source and final", oninput: drawWipe });
  const overlay = el("input", { type: "checkbox", onchange: drawMode });
  const figure = (element, name) => el("figure", {}, element, el("figcaption", {}, name));
  const stage = el("div.stage", {}, figure(source, "Source"), figure(final, "Final"));
  const wipeLine = el("label.wipe", { hidden: true }, el("span", {}, "Source"), wipe, el("span", {}, "Final"));
  const message = el("p.bad", { role: "status" });
  const controls = el("div.controls", {}, play, step("‹ frame", -1), step("frame ›", 1), seek, position, mute, el("label.check", {}, overlay, "Slider between the frames"));
  const download = el("a.button", {}, "Download the final");
  const element = el("section.card.player", { "aria-label": "Source and final", hidden: true }, el("h2", {}, "Source and final"), stage, wipeLine, controls, message, download);
  let frameS = 1 / 25;
  let loop = 0;
  let loaded = "";

  function video(label, muted) {
    const made = el("video", { preload: "auto", playsinline: true, "aria-label": label, tabindex: -1, "data-kind": label.toLowerCase() });
    made.muted = muted;
    made.addEventListener("error", () => made.error && made.getAttribute("src") && (message.textContent = `This browser cannot play the ${label.toLowerCase()} (${made.error.message || "unknown format"}). Download it instead.`));
    made.addEventListener("ended", pause);
    made.addEventListener("loadedmetadata", () => { seek.max = final.duration || source.duration || 1; drawPosition(); });
    return made;
  }

  function step(label, frames) {
    return el("button", { type: "button", "aria-label": frames < 0 ? "One frame back" : "One frame forward", onclick: () => { pause(); jump(final.currentTime + frames * frameS); } }, label);
  }

  function ready() {
    return both.filter((each) => each.getAttribute("src"));
  }

  function toggle() {
    if (final.paused) {
      if (final.ended) jump(0);
      play.textContent = "Pause";
      Promise.all(ready().map((each) => each.play())).catch((error) => { pause(); message.textContent = error.message; });
      cancelAnimationFrame(loop);
      follow();
    } else pause();
  }

  function pause() {
    for (const each of both) each.pause();
    cancelAnimationFrame(loop);
    source.playbackRate = 1;
    play.textContent = "Play";
    if (Math.abs(source.currentTime - final.currentTime) > frameS / 2) source.currentTime = final.currentTime;
    drawPosition();
  }

  function jump(seconds) {
    const to = Math.min(Math.max(0, seconds), final.duration || source.duration || 0);
    for (const each of ready()) each.currentTime = to;
    drawPosition(to);
  }

  // The final has the audio, so the source follows it.
  function follow() {
    const drift = source.currentTime - final.currentTime;
    if (Math.abs(drift) > JUMP_S) source.currentTime = final.currentTime;
    source.playbackRate = Math.abs(drift) > DRIFT_S ? 1 - Math.sign(drift) * 0.05 : 1;
    drawPosition();
    loop = requestAnimationFrame(follow);
  }

  function drawPosition(at = final.currentTime) {
    seek.value = at;
    position.textContent = `${clock(at)} / ${clock(final.duration || 0)}`;
    seek.setAttribute("aria-valuetext", clock(at));
  }

  function drawWipe() {
    stage.style.setProperty("--wipe", `${wipe.value}%`);
  }

  function drawMode() {
    stage.classList.toggle("is-overlaid", overlay.checked);
    wipeLine.hidden = !overlay.checked;
    drawWipe();
  }

  function address(kind, etag) {
    return `/api/media?${new URLSearchParams([["job", jobId], ["kind", kind], ["version", etag]])}`;
  }

  return {
    element,
    update(job) {
      element.hidden = !job.final;
      const wanted = `${job.source_etag} ${job.final_etag}`;
      if (!job.final || wanted === loaded) return;
      loaded = wanted;
      if (job.plan?.frames) frameS = job.plan.duration_s / job.plan.frames;
      message.textContent = job.source ? "" : "The source does not exist any more: only the final can be played.";
      final.src = address("final", job.final_etag);
      if (job.source) source.src = address("source", job.source_etag);
      else source.removeAttribute("src");
      source.closest("figure").hidden = !job.source;
      download.href = `${address("final", job.final_etag)}&download`;
    },
    close() {
      pause();
      for (const each of both) { each.removeAttribute("src"); each.load(); }
    },
  };
}
