/** The field to write in: Enter sends, Shift+Enter breaks the line, Escape stops the answer. */

import { AuiIf, ComposerPrimitive, useAuiState } from "@assistant-ui/react";
import { useEffect, useRef, type RefObject } from "react";
import { SendIcon, StopIcon } from "../icons";
import { useServer } from "../server";
import { useChat } from "./settings";
import classes from "./Composer.module.css";

export function Composer() {
  const { model } = useChat();
  const { connection } = useServer();
  const field = useRef<HTMLTextAreaElement>(null);
  useFocusAfterRun(field);
  return (
    <div className={classes.composerDock}>
      <ComposerPrimitive.Root className={classes.composer}>
        <ComposerPrimitive.Input
          ref={field}
          className={classes.composerInput}
          placeholder={model ? `Message ${model}` : "Message"}
          aria-label="Message"
          rows={1}
          maxRows={10}
          autoFocus={connection !== "unauthorized"} // else the dialog for the key has the focus
        />
        <AuiIf condition={(state) => !state.thread.isRunning}>
          <ComposerPrimitive.Send className={classes.send} aria-label="Send">
            <SendIcon size={18} />
          </ComposerPrimitive.Send>
        </AuiIf>
        <AuiIf condition={(state) => state.thread.isRunning}>
          <ComposerPrimitive.Cancel className={classes.send} aria-label="Stop">
            <StopIcon size={18} />
          </ComposerPrimitive.Cancel>
        </AuiIf>
      </ComposerPrimitive.Root>
      <p className={classes.composerHint}>Models make mistakes: check what matters.</p>
    </div>
  );
}

/** The stop button goes away with the run; a focus that stood on it comes to the field. */
function useFocusAfterRun(field: RefObject<HTMLTextAreaElement | null>): void {
  const isRunning = useAuiState((state) => state.thread.isRunning);
  useEffect(() => {
    if (!isRunning && document.activeElement === document.body) field.current?.focus();
  }, [isRunning, field]);
}
