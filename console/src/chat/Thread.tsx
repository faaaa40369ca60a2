/** The conversation and what surrounds it: its empty state, its end, the field to write in. */

import { AuiIf, ThreadPrimitive, useAui, useAuiState } from "@assistant-ui/react";
import { VisuallyHidden } from "@mantine/core";
import { useEffect, useRef } from "react";
import { ArrowDownIcon } from "../icons";
import { modelBehind, useServer } from "../server";
import { AssistantMessage } from "./AssistantMessage";
import { Composer } from "./Composer";
import { useChat } from "./settings";
import { UserEditor, UserMessage } from "./UserMessage";
import classes from "./Chat.module.css";

const SUGGESTIONS = [
  "What can you do?",
  "How do I load a model?",
  "How do I add my own model?",
  "Which APIs does this server speak?",
];

const MESSAGES = { UserMessage, AssistantMessage, UserEditComposer: UserEditor };

export function Thread() {
  useStopOnEscape();
  useRefreshAfterRun();
  return (
    <ThreadPrimitive.Root className={classes.thread}>
      <ThreadPrimitive.Viewport className={classes.viewport} tabIndex={-1}>
        <AuiIf condition={(state) => state.thread.isEmpty}>
          <Welcome />
        </AuiIf>
        <div className={classes.messages} role="log" aria-label="Conversation" aria-live="off">
          <ThreadPrimitive.Messages components={MESSAGES} />
        </div>
        <div className={classes.viewportFoot}>
          <ThreadPrimitive.ScrollToBottom className={classes.toBottom} aria-label="Scroll to the end">
            <ArrowDownIcon size={16} />
          </ThreadPrimitive.ScrollToBottom>
        </div>
      </ThreadPrimitive.Viewport>
      <Composer />
      <Progress />
    </ThreadPrimitive.Root>
  );
}

/** Tells a screen reader that an answer began and ended; its words, token by token, would be noise. */
function Progress() {
  const text = useAuiState(({ thread }) => (thread.isRunning ? "Answering" : thread.isEmpty ? "" : "Answer ended"));
  return (
    <VisuallyHidden role="status" data-testid="progress">
      {text}
    </VisuallyHidden>
  );
}

/** Escape stops the answer wherever the focus is, unless a dialog or a list is open and wants it. */
function useStopOnEscape(): void {
  const aui = useAui();
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      if (document.querySelector('[role="dialog"], [role="menu"], [role="listbox"]')) return;
      if (aui.thread().getState().isRunning) aui.thread().cancelRun();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [aui]);
}

/** A message may have loaded its model, and what the page says of the model should follow. */
function useRefreshAfterRun(): void {
  const { refresh } = useServer();
  const isRunning = useAuiState((state) => state.thread.isRunning);
  const ran = useRef(false);
  useEffect(() => {
    if (isRunning) ran.current = true;
    else if (ran.current) void refresh();
  }, [isRunning, refresh]);
}

function Welcome() {
  const { model } = useChat();
  const server = useServer();
  const online = server.connection === "online";
  const behind = model ? modelBehind(model, server) : null;
  return (
    <div className={classes.welcome}>
      <h1>{welcomeTitle(model, online)}</h1>
      <p>{behind?.description || welcomeText(model, online)}</p>
      {model && (
        <div className={classes.suggestions}>
          {SUGGESTIONS.map((prompt) => (
            <ThreadPrimitive.Suggestion key={prompt} className={classes.suggestion} prompt={prompt} send>
              {prompt}
            </ThreadPrimitive.Suggestion>
          ))}
        </div>
      )}
    </div>
  );
}

function welcomeTitle(model: string | null, online: boolean): string {
  if (model) return "What would you like to know?";
  return online ? "No chat model yet" : "Welcome";
}

function welcomeText(model: string | null, online: boolean): string {
  if (model) return `You are talking to ${model}.`;
  return online ? "The server lists no model that can chat. Add one to its model folder." : "Waiting for the server.";
}
