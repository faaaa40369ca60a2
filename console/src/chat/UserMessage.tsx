/** What the person said, and the field to say it differently. */

import { ActionBarPrimitive, ComposerPrimitive, MessagePrimitive, useMessagePartText } from "@assistant-ui/react";
import { Button } from "@mantine/core";
import { EditIcon } from "../icons";
import { BranchPicker, CopyAction } from "./MessageActions";
import classes from "./Chat.module.css";
import field from "./Composer.module.css";

const PARTS = { Text: PlainText };

export function UserMessage() {
  return (
    <MessagePrimitive.Root className={classes.userMessage} aria-label="You" role="article">
      <div className={classes.bubble}>
        <MessagePrimitive.Parts components={PARTS} />
      </div>
      <div className={classes.actions}>
        <BranchPicker />
        <CopyAction />
        <ActionBarPrimitive.Edit className={classes.action} aria-label="Edit" title="Edit">
          <EditIcon />
        </ActionBarPrimitive.Edit>
      </div>
    </MessagePrimitive.Root>
  );
}

function PlainText() {
  const { text } = useMessagePartText();
  return <p className={classes.plain}>{text}</p>;
}

export function UserEditor() {
  return (
    <MessagePrimitive.Root className={classes.userMessage}>
      <ComposerPrimitive.Root className={field.editor}>
        <ComposerPrimitive.Input className={field.editorInput} aria-label="Edit the message" maxRows={14} autoFocus />
        <div className={field.editorEnd}>
          <ComposerPrimitive.Cancel asChild>
            <Button variant="default">Cancel</Button>
          </ComposerPrimitive.Cancel>
          <ComposerPrimitive.Send asChild>
            <Button>Send</Button>
          </ComposerPrimitive.Send>
        </div>
      </ComposerPrimitive.Root>
    </MessagePrimitive.Root>
  );
}
