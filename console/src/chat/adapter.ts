/** Joins the chat component to the server: a conversation in, a growing answer out. */

import type { ChatModelAdapter, ChatModelRunResult, ThreadMessage } from "@assistant-ui/react";
import { ApiError, streamChat, type ChatMessage, type ChatRequest } from "../api";
import { samplingOf, type ChatSettings } from "./settings";
import { addEvent, endAnswer, speedOf, startAnswer, type Answer, type Speed } from "./stream";

/** What an answer's message carries beside its text. */
export interface AnswerNotes {
  model: string | null;
  speed: Speed | null;
  finishReason: string | null;
}

/** `current` is asked at each message, so that a changed setting counts from the next one on. */
export function chatAdapter(current: () => { settings: ChatSettings; model: string | null }): ChatModelAdapter {
  return {
    async *run({ messages, abortSignal }) {
      const { settings, model } = current();
      let answer = startAnswer(performance.now());
      try {
        if (!model) throw new ApiError("No chat model is available. Add one, or look at the models page.", 0);
        const request = { model, messages: toMessages(settings.system, messages), ...samplingOf(settings) };
        for await (const events of streamChat(request satisfies ChatRequest, abortSignal)) {
          answer = events.reduce((sofar, event) => addEvent(sofar, event.data, performance.now()), answer);
          yield toResult(answer);
          if (answer.done || answer.error) break;
        }
        answer = endAnswer(answer);
      } catch (error) {
        if (abortSignal.aborted) throw error;
        answer = { ...answer, error: describe(error) };
      }
      yield toResult(answer);
    },
  };
}

function describe(error: unknown): { message: string; code: string | null } {
  if (error instanceof ApiError) {
    const wait = error.retryAfterS === null ? "" : ` Try again in ${error.retryAfterS} s.`;
    return { message: error.message + wait, code: error.code };
  }
  // A body that breaks off is a plain TypeError, whose text differs from browser to browser.
  return { message: "The connection was lost while the answer arrived.", code: "stream_cut" };
}

function toMessages(system: string, thread: readonly ThreadMessage[]): ChatMessage[] {
  const messages = thread
    .map((message) => ({ role: message.role, content: textOf(message) }))
    // An answer that failed before its first word says nothing to the model.
    .filter((message) => message.role !== "assistant" || message.content !== "");
  return system.trim() ? [{ role: "system", content: system }, ...messages] : messages;
}

function textOf(message: ThreadMessage): string {
  return message.content.map((part) => (part.type === "text" ? part.text : "")).join("");
}

function toResult(answer: Answer): ChatModelRunResult {
  const notes: AnswerNotes = {
    model: answer.model,
    speed: speedOf(answer),
    finishReason: answer.finishReason,
  };
  return {
    content: [
      ...(answer.reasoning ? [{ type: "reasoning" as const, text: answer.reasoning }] : []),
      ...(answer.text ? [{ type: "text" as const, text: answer.text }] : []),
    ],
    metadata: { custom: { ...notes } },
    ...(answer.error && {
      status: {
        type: "incomplete" as const,
        reason: "error" as const,
        error: { code: answer.error.code ?? "unknown", message: answer.error.message },
      },
    }),
  };
}
