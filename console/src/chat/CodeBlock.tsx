/** A block of code: its language, a button that copies it, its colours once the highlighter is there. */

import type { CodeHeaderProps, SyntaxHighlighterProps } from "@assistant-ui/react-markdown";
import { useEffect, useState, type ReactNode } from "react";
import { useCopy } from "../clipboard";
import { CheckIcon, CopyIcon } from "../icons";
import classes from "./Markdown.module.css";

export function CodeHeader({ language, code }: CodeHeaderProps) {
  const { copied, copy } = useCopy();
  return (
    <div className={classes.codeHeader}>
      <span>{language && language !== "unknown" ? language : "text"}</span>
      <button type="button" onClick={() => copy(code.replace(/\n$/, ""))} aria-label="Copy the code">
        {copied ? <CheckIcon /> : <CopyIcon />}
        {copied ? "Copied" : "Copy"}
      </button>
    </div>
  );
}

type Highlight = (code: string, language: string) => ReactNode;

let loaded: Highlight | null = null;

/** Null until the highlighter, a chunk of its own, has arrived. */
function useHighlight(): Highlight | null {
  const [highlight, setHighlight] = useState<Highlight | null>(() => loaded);
  useEffect(() => {
    if (loaded) return;
    let current = true;
    void import("./highlight").then((module) => {
      loaded = module.highlight;
      if (current) setHighlight(() => module.highlight);
    });
    return () => {
      current = false;
    };
  }, []);
  return highlight;
}

export function HighlightedCode({ components: { Pre, Code }, language, code }: SyntaxHighlighterProps) {
  const highlight = useHighlight();
  return (
    <Pre tabIndex={0}>
      <Code>{highlight ? highlight(code, language) : code}</Code>
    </Pre>
  );
}
