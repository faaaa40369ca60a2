/** Markdown to elements. Raw HTML stays text; pictures from elsewhere become links, so that nothing is fetched. */

import { MarkdownTextPrimitive } from "@assistant-ui/react-markdown";
import type { ComponentPropsWithoutRef } from "react";
import remarkGfm from "remark-gfm";
import { CodeHeader, HighlightedCode } from "./CodeBlock";
import classes from "./Markdown.module.css";

const PLUGINS = [remarkGfm];

type Extra = { node?: unknown };

const COMPONENTS = {
  CodeHeader,
  SyntaxHighlighter: HighlightedCode,
  a: ({ node: _, children, ...rest }: ComponentPropsWithoutRef<"a"> & Extra) => (
    <a {...rest} target="_blank" rel="noreferrer noopener">
      {children}
    </a>
  ),
  img: ({ src, alt }: ComponentPropsWithoutRef<"img"> & Extra) => (
    <a href={typeof src === "string" ? src : undefined} target="_blank" rel="noreferrer noopener">
      {alt || "picture"}
    </a>
  ),
  table: ({ node: _, ...rest }: ComponentPropsWithoutRef<"table"> & Extra) => (
    <div className={classes.tableScroll}>
      <table {...rest} />
    </div>
  ),
};

export default function Markdown() {
  return <MarkdownTextPrimitive className={classes.markdown} remarkPlugins={PLUGINS} components={COMPONENTS} smooth={false} />;
}
