/** Server-sent events: bytes to events, as the HTML standard defines them. Knows nothing of chats. */

export interface SseEvent {
  event: string;
  data: string;
}

/** Takes text in pieces cut anywhere and gives back the events completed so far. */
export class SseParser {
  #rest = "";
  #started = false;
  #event = "";
  #data: string[] = [];

  push(text: string): SseEvent[] {
    this.#rest += text;
    if (!this.#started && this.#rest.length > 0) {
      this.#started = true;
      if (this.#rest.startsWith("\uFEFF")) this.#rest = this.#rest.slice(1);
    }
    const events: SseEvent[] = [];
    for (let line = this.#takeLine(); line !== undefined; line = this.#takeLine()) {
      this.#readLine(line, events);
    }
    return events;
  }

  /** A line ends with LF, CR or CRLF. A CR at the very end waits: its LF may be in the next piece. */
  #takeLine(): string | undefined {
    const end = this.#rest.search(/[\r\n]/);
    if (end < 0) return undefined;
    const isCarriageReturn = this.#rest[end] === "\r";
    if (isCarriageReturn && end + 1 === this.#rest.length) return undefined;
    const width = isCarriageReturn && this.#rest[end + 1] === "\n" ? 2 : 1;
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + width);
    return line;
  }

  #readLine(line: string, events: SseEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) {
        events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      }
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}

/** Yields the events of each network read together, so that a fast stream costs one repaint per read. */
export async function* readSse(body: ReadableStream<Uint8Array>): AsyncGenerator<SseEvent[], void> {
  const parser = new SseParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      // The added line ends complete a last event whose server left them out.
      const text = done ? `${decoder.decode()}\n\n` : decoder.decode(value, { stream: true });
      const events = parser.push(text);
      if (events.length > 0) yield events;
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
