/** Load, unload, chat: what a model's state allows. Beside them, how the last call ended. */

import { Button, CloseButton } from "@mantine/core";
import { Link } from "wouter";
import type { Model } from "../api";
import { AlertIcon } from "../icons";
import type { ModelActions } from "./actions";
import { keyOf } from "./actions";
import classes from "./Models.module.css";

interface Props {
  model: Model;
  actions: ModelActions;
}

export function ModelButtons({ model, actions }: Props) {
  const { running } = actions.stateOf(model);
  const loaded = model.state === "ready" || model.state === "draining";
  const verb = running ?? (loaded ? "unload" : "load");
  const busy = running !== null || model.state === "loading" || model.state === "draining";
  const label = verb === "load" ? (model.state === "failed" ? "Load again" : "Load") : "Unload";
  const chatName = model.routes[0];
  return (
    <div className={classes.buttons}>
      {model.capabilities.includes("chat") && chatName && (
        <Button component={Link} href={`/chat?model=${encodeURIComponent(chatName)}`} variant="subtle">
          Chat
        </Button>
      )}
      <Button
        variant={verb === "load" ? "light" : "default"}
        loading={busy}
        onClick={() => void actions.act(verb, model)}
        aria-label={`${label} ${keyOf(model)}`}
      >
        {label}
      </Button>
    </div>
  );
}

/** The bar of a call under way, the words it ended with, or the error the server keeps. */
export function ModelNotice({ model, actions }: Props) {
  const { running, outcome } = actions.stateOf(model);
  if (running || model.state === "loading" || model.state === "draining") {
    return <div className={classes.progress} role="progressbar" aria-label={`${keyOf(model)} is ${model.state}`} />;
  }
  const error = outcome?.failed ? outcome.text : model.error?.message;
  if (error) {
    return (
      <p className={classes.failure} role="alert">
        <AlertIcon />
        <span>{error}</span>
      </p>
    );
  }
  if (!outcome) return null;
  return (
    <p className={classes.outcome} role="status">
      <span>{outcome.text}</span>
      <CloseButton size="xs" aria-label="Dismiss" onClick={() => actions.dismiss(model)} />
    </p>
  );
}
