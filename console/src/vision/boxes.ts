/** Where tracked objects are at any moment of a video. Pure. */

import type { Found, Track } from "../api";

type Box = Found["box"];

export interface Placed {
  key: string;
  text: string;
  tone: number;
  box: Box;
}

/** How many tones the style sheet has. */
export const TONES = 6;

export function placedFound(found: Found[]): Placed[] {
  const labels = [...new Set(found.map((one) => one.label))].sort();
  return found.map((one, index) => ({
    key: String(index),
    text: `${one.label} ${percent(one.score)}`,
    tone: labels.indexOf(one.label) % TONES,
    box: one.box,
  }));
}

/** Boxes between two sampled pictures lie on the line between theirs. `slackS` reaches beyond the first and the last. */
export function placedAt(tracks: Track[], timeS: number, slackS: number): Placed[] {
  return tracks.flatMap((track) => {
    const box = boxAt(track, timeS, slackS);
    return box ? [{ key: String(track.id), text: `${track.label} #${track.id}`, tone: track.id % TONES, box }] : [];
  });
}

function boxAt({ boxes }: Track, timeS: number, slackS: number): Box | null {
  const after = boxes.findIndex((place) => place.time_s >= timeS);
  const [first, last] = [boxes[0], boxes[boxes.length - 1]];
  if (!first || !last) return null;
  if (after === 0) return first.time_s - timeS <= slackS ? first.box : null;
  if (after < 0) return timeS - last.time_s <= slackS ? last.box : null;
  const [left, right] = [boxes[after - 1]!, boxes[after]!];
  const share = (timeS - left.time_s) / (right.time_s - left.time_s);
  return left.box.map((value, at) => value + (right.box[at]! - value) * share) as Box;
}

export function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}

export function seconds(value: number): string {
  return `${value.toFixed(1)} s`;
}
