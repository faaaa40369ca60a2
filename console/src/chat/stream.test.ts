import { describe, expect, it } from "vitest";
import { addEvent, endAnswer, speedOf, startAnswer, type Answer } from "./stream";

/** Folds events that arrive 100 ms apart, the first at 100 ms. */
function fold(...events: unknown[]): Answer {
  return events.reduce<Answer>(
    (answer, event, index) =>
      addEvent(answer, typeof event === "string" ? event : JSON.stringify(event), (index + 1) * 100),
    startAnswer(0),
  );
}

const piece = (content: string) => ({ model: "guide", choices: [{ index: 0, delta: { content } }] });
const finish = (reason: string) => ({ choices: [{ index: 0, delta: {}, finish_reason: reason }] });
const usage = (tokens: number) => ({ choices: [], usage: { prompt_tokens: 3, completion_tokens: tokens } });

describe("addEvent", () => {
  it("joins the pieces and keeps model, finish reason and usage", () => {
    const answer = fold(piece("Hel"), piece("lo"), finish("stop"), usage(7), "[DONE]");
    expect(answer).toMatchObject({
      text: "Hello",
      model: "guide",
      finishReason: "stop",
      completionTokens: 7,
      done: true,
      error: null,
    });
  });

  it("passes over a first chunk with a role only and null content", () => {
    const answer = fold({ choices: [{ delta: { role: "assistant", content: null } }] }, piece("a"));
    expect(answer).toMatchObject({ text: "a", firstTokenMs: 200 });
  });

  it("keeps reasoning apart, under either name", () => {
    const answer = fold(
      { choices: [{ delta: { reasoning_content: "hm" } }] },
      { choices: [{ delta: { reasoning: "!" } }] },
      piece("a"),
    );
    expect(answer).toMatchObject({ reasoning: "hm!", text: "a", firstTokenMs: 100 });
  });

  it("keeps the text received before an error event", () => {
    const answer = fold(piece("a"), { error: { message: "out of memory", code: "oom" } }, piece("b"), "[DONE]");
    expect(answer).toMatchObject({ text: "a", error: { message: "out of memory", code: "oom" }, done: false });
  });

  it("takes an error given as text, and one without a message", () => {
    expect(fold({ error: "no" }).error).toEqual({ message: "no", code: null });
    expect(fold({ error: { code: "x" } }).error?.message).toMatch(/without a message/);
  });

  it("calls a chunk that is not JSON an error", () => {
    expect(fold(piece("a"), "{oops").error?.message).toMatch(/not JSON/);
  });

  it("passes over null errors, other JSON and chunks without choices", () => {
    expect(fold("null", "[]", "1", { error: null, choices: "x" }, piece("a"))).toMatchObject({ text: "a", error: null });
  });

  it("ignores what follows [DONE]", () => {
    expect(fold(piece("a"), "[DONE]", piece("b")).text).toBe("a");
  });
});

describe("endAnswer", () => {
  it("accepts [DONE], or a finish reason without it", () => {
    expect(endAnswer(fold(piece("a"), "[DONE]")).error).toBeNull();
    expect(endAnswer(fold(piece("a"), finish("length")))).toMatchObject({ error: null, finishReason: "length" });
  });

  it("tells a cut stream from a whole answer", () => {
    expect(endAnswer(fold(piece("a")))).toMatchObject({ text: "a", error: { code: "stream_cut" } });
  });

  it("keeps the first error", () => {
    expect(endAnswer(fold({ error: "no" })).error?.message).toBe("no");
  });
});

describe("speedOf", () => {
  it("is unknown before the first token", () => {
    expect(speedOf(fold({ choices: [{ delta: { role: "assistant" } }] }))).toBeNull();
  });

  it("measures from the first token to the last, with the server's count", () => {
    expect(speedOf(fold(piece("a"), piece("b"), piece("c"), usage(11)))).toEqual({
      tokens: 11,
      firstTokenMs: 100,
      tokensPerS: 50,
    });
  });

  it("counts pieces until the server has counted", () => {
    expect(speedOf(fold(piece("a"), piece("b"), piece("c")))).toMatchObject({ tokens: 3, tokensPerS: 10 });
  });

  it("gives no rate for an answer in one piece", () => {
    expect(speedOf(fold(piece("abc"), usage(3)))).toMatchObject({ tokens: 3, tokensPerS: null });
  });
});
