/** An answer: its reasoning, its text, what went wrong, how fast it came. */

import {
  ActionBarPrimitive,
  MessagePrimitive,
  useAuiState,
  useMessagePartReasoning,
  useMessagePartText,
  type EmptyMessagePartProps,
} from "@assistant-ui/react";
import { lazy, Suspense } from "react";
import { AlertIcon, RetryIcon } from "../icons";
import { modelBehind, useServer } from "../server";
import type { AnswerNotes } from "./adapter";
import { BranchPicker, CopyAction } from "./MessageActions";
import { useChat } from "./settings";
import classes from "./Chat.module.css";

/** A chunk of its own, fetched once the page stands; plain text takes its place until then. */
const Markdown = lazy(() => import("./Markdown"));

const PARTS = { Text: AnswerText, Reasoning, Empty: Waiting };

export function AssistantMessage() {
  const running = useAuiState((state) => state.message.status?.type === "running");
  return (
    <MessagePrimitive.Root className={classes.assistantMessage} aria-label="Answer" role="article">
      <MessagePrimitive.Parts components={PARTS} />
      <Failure />
      <div className={classes.actions} data-running={running || undefined}>
        <BranchPicker />
        <CopyAction />
        <ActionBarPrimitive.Reload className={classes.action} aria-label="Regenerate" title="Regenerate">
          <RetryIcon />
        </ActionBarPrimitive.Reload>
        <Notes />
      </div>
    </MessagePrimitive.Root>
  );
}

function AnswerText() {
  return (
    <Suspense fallback={<PlainText />}>
      <Markdown />
    </Suspense>
  );
}

function PlainText() {
  const { text } = useMessagePartText();
  return <p className={classes.plain}>{text}</p>;
}

/** Shown until the first token; says so when the model has to be loaded first. */
function Waiting({ status }: EmptyMessagePartProps) {
  const { model } = useChat();
  const server = useServer();
  if (status.type !== "running") return null;
  const state = model ? modelBehind(model, server)?.state : undefined;
  const loading = state === "unloaded" || state === "loading";
  return (
    <div className={classes.waiting} role="status" aria-label={loading ? `Loading ${model}` : "Waiting for the answer"}>
      <span />
      <span />
      <span />
      {loading && <em>Loading {model}</em>}
    </div>
  );
}

function Reasoning() {
  const { text, status } = useMessagePartReasoning();
  const running = status.type === "running";
  return (
    <details className={classes.reasoning}>
      <summary>{running ? "Thinking…" : "Thoughts"}</summary>
      <p className={classes.plain}>{text}</p>
    </details>
  );
}

function Failure() {
  const message = useAuiState((state) => {
    const status = state.message.status;
    if (status?.type !== "incomplete" || status.reason !== "error") return null;
    return messageOf(status.error);
  });
  if (!message) return null;
  return (
    <div className={classes.failure} role="alert">
      <AlertIcon />
      <span>{message}</span>
      <ActionBarPrimitive.Reload className={classes.retry}>Try again</ActionBarPrimitive.Reload>
    </div>
  );
}

function messageOf(error: unknown): string {
  if (typeof error === "object" && error !== null && "message" in error) return String(error.message);
  return typeof error === "string" ? error : "The answer failed.";
}

function Notes() {
  const custom = useAuiState((state) => state.message.metadata.custom) as Partial<AnswerNotes>;
  const stopped = useAuiState((state) => {
    const status = state.message.status;
    return status?.type === "incomplete" && status.reason === "cancelled";
  });
  const words = notesOf(custom, stopped);
  if (words.length === 0) return null;
  return (
    <span className={classes.notes} data-testid="answer-notes">
      {words.map((word) => (
        <span key={word}>{word}</span>
      ))}
    </span>
  );
}

function notesOf({ model, speed, finishReason }: Partial<AnswerNotes>, stopped: boolean): string[] {
  const words: string[] = [];
  if (stopped) words.push("stopped");
  if (finishReason === "length") words.push("cut at the token limit");
  if (finishReason === "content_filter") words.push("cut by a content filter");
  if (model) words.push(model);
  if (speed) {
    if (speed.tokensPerS !== null) words.push(`${speed.tokensPerS.toFixed(speed.tokensPerS < 10 ? 1 : 0)} tokens/s`);
    words.push(`first token ${formatMs(speed.firstTokenMs)}`);
    words.push(`${speed.tokens} ${speed.tokens === 1 ? "token" : "tokens"}`);
  }
  return words;
}

function formatMs(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
