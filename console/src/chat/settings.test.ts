import { describe, expect, it } from "vitest";
import { countChanged, DEFAULT_SETTINGS, parseSettings, samplingOf } from "./settings";

describe("parseSettings", () => {
  it("keeps what is of the right type and drops the rest", () => {
    const stored = { model: 3, system: "Be brief.", temperature: 0, topP: "0.5", maxTokens: null, seed: 7, old: true };
    expect(parseSettings(stored)).toEqual({ ...DEFAULT_SETTINGS, system: "Be brief.", temperature: 0, seed: 7 });
    expect(parseSettings({ effort: "low" }).effort).toBe("low");
    expect(parseSettings({ effort: "endless" }).effort).toBeNull();
  });
});

describe("samplingOf", () => {
  it("sends only what was chosen, a zero included", () => {
    expect(samplingOf(DEFAULT_SETTINGS)).toEqual({});
    expect(samplingOf({ ...DEFAULT_SETTINGS, temperature: 0, topP: 0.5, maxTokens: 8, seed: 7, effort: "low" })).toEqual({
      temperature: 0,
      top_p: 0.5,
      max_tokens: 8,
      seed: 7,
      reasoning_effort: "low",
    });
  });
});

describe("countChanged", () => {
  it("leaves the model out", () => {
    expect(countChanged({ ...DEFAULT_SETTINGS, model: "guide" })).toBe(0);
    expect(countChanged({ ...DEFAULT_SETTINGS, system: "Be brief.", seed: 0 })).toBe(2);
  });
});
