import { expect, test } from "vitest";
import type { Track } from "../api";
import { placedAt, placedFound } from "./boxes";

const track: Track = {
  id: 7,
  label: "star",
  first_s: 1,
  last_s: 2,
  boxes: [
    { time_s: 1, score: 0.9, box: [0, 0, 10, 10] },
    { time_s: 2, score: 0.8, box: [10, 20, 20, 30] },
  ],
};

test("a box between two pictures lies between theirs", () => {
  expect(placedAt([track], 1.5, 0.1)).toEqual([{ key: "7", text: "star #7", tone: 1, box: [5, 10, 15, 20] }]);
});

test("a track is seen a little before and after its pictures, and no longer", () => {
  expect(placedAt([track], 0.95, 0.1)[0]?.box).toEqual([0, 0, 10, 10]);
  expect(placedAt([track], 2.05, 0.1)[0]?.box).toEqual([10, 20, 20, 30]);
  expect(placedAt([track], 0.5, 0.1)).toEqual([]);
  expect(placedAt([track], 2.5, 0.1)).toEqual([]);
  expect(placedAt([{ ...track, boxes: [] }], 1, 0.1)).toEqual([]);
});

test("equal labels have equal tones", () => {
  const found = ["star", "circle", "star"].map((label) => ({ label, score: 0.5, box: [0, 0, 1, 1] as [number, number, number, number] }));
  expect(placedFound(found).map((one) => one.tone)).toEqual([1, 0, 1]);
  expect(placedFound(found)[0]?.text).toBe("star 50%");
});
