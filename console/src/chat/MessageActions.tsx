/** What can be done with any message: copy it, step through its versions. */

import { BranchPickerPrimitive, useAui } from "@assistant-ui/react";
import { useCopy } from "../clipboard";
import { CheckIcon, ChevronLeftIcon, ChevronRightIcon, CopyIcon } from "../icons";
import classes from "./Chat.module.css";

export function CopyAction() {
  const aui = useAui();
  const { copied, copy } = useCopy();
  const label = copied ? "Copied" : "Copy";
  return (
    <button
      type="button"
      className={classes.action}
      aria-label={label}
      title={label}
      onClick={() => copy(aui.message().getCopyText())}
    >
      {copied ? <CheckIcon /> : <CopyIcon />}
    </button>
  );
}

export function BranchPicker() {
  return (
    <BranchPickerPrimitive.Root hideWhenSingleBranch className={classes.branches}>
      <BranchPickerPrimitive.Previous className={classes.action} aria-label="Previous version">
        <ChevronLeftIcon />
      </BranchPickerPrimitive.Previous>
      <span>
        <BranchPickerPrimitive.Number /> / <BranchPickerPrimitive.Count />
      </span>
      <BranchPickerPrimitive.Next className={classes.action} aria-label="Next version">
        <ChevronRightIcon />
      </BranchPickerPrimitive.Next>
    </BranchPickerPrimitive.Root>
  );
}
