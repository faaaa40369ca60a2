import { describe, expect, it } from "vitest";
import { readSse, SseParser, type SseEvent } from "./sse";

function parse(...pieces: string[]): SseEvent[] {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

const data = (...pieces: string[]) => parse(...pieces).map((event) => event.data);

describe("SseParser", () => {
  it("reads whole events", () => {
    expect(parse("data: a\n\ndata: b\n\n")).toEqual([
      { event: "message", data: "a" },
      { event: "message", data: "b" },
    ]);
  });

  it("gives the same events wherever the text is cut", () => {
    const text = 'event: x\r\ndata: {"a":\r\ndata: 1}\r\n\r\n: ping\n\ndata: b\r\rdata:c\n\n';
    const whole = parse(text);
    expect(whole.map((event) => event.data)).toEqual(['{"a":\n1}', "b", "c"]);
    for (let cut = 1; cut < text.length; cut++) {
      expect(parse(text.slice(0, cut), text.slice(cut))).toEqual(whole);
    }
    expect(parse(...text)).toEqual(whole);
  });

  it("does not take CR, then LF in the next piece, for two line ends", () => {
    expect(data("data: a\r", "\ndata: b\r", "\n\r", "\n")).toEqual(["a\nb"]);
  });

  it("keeps an event back until its blank line", () => {
    expect(data("data: a\n")).toEqual([]);
    expect(data("data: a")).toEqual([]);
  });

  it("takes one space after the colon, no more", () => {
    expect(data("data:a\n\n", "data:  b\n\n", "data\n\n")).toEqual(["a", " b", ""]);
  });

  it("passes over comments, unknown fields and events without data", () => {
    expect(parse(": ping\n\nretry: 5\nid: 1\nevent: x\n\ndata: a\n\n")).toEqual([{ event: "message", data: "a" }]);
  });

  it("names the event", () => {
    expect(parse("event: error\ndata: a\n\n")).toEqual([{ event: "error", data: "a" }]);
  });

  it("drops a byte order mark", () => {
    expect(data("\uFEFFdata: a\n\n")).toEqual(["a"]);
  });
});

describe("readSse", () => {
  const streamOf = (pieces: Uint8Array[]) =>
    new ReadableStream<Uint8Array>({
      start(controller) {
        pieces.forEach((piece) => controller.enqueue(piece));
        controller.close();
      },
    });

  async function collect(pieces: Uint8Array[]): Promise<string[][]> {
    const reads: string[][] = [];
    for await (const events of readSse(streamOf(pieces))) reads.push(events.map((event) => event.data));
    return reads;
  }

  const bytes = (text: string) => new TextEncoder().encode(text);

  it("joins characters cut between reads", async () => {
    const whole = bytes("data: é😀\n\n");
    expect(await collect([...whole].map((byte) => new Uint8Array([byte])))).toEqual([["é😀"]]);
  });

  it("groups the events of one read", async () => {
    expect(await collect([bytes("data: a\n\ndata: b\n\n"), bytes("data: c\n\n")])).toEqual([["a", "b"], ["c"]]);
  });

  it("completes a last event without its blank line", async () => {
    expect(await collect([bytes("data: a\n\ndata: [DONE]")])).toEqual([["a"], ["[DONE]"]]);
  });

  it("cancels the body when its reader stops early", async () => {
    let cancelled = false;
    const body = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(bytes("data: a\n\n")),
      cancel: () => {
        cancelled = true;
      },
    });
    for await (const _ of readSse(body)) break;
    expect(cancelled).toBe(true);
  });
});
