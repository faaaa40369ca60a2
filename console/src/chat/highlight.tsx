/** Colours code. Loaded on the first code block, as the grammars are the heaviest part of the chat. */

import bash from "highlight.js/lib/languages/bash";
import css from "highlight.js/lib/languages/css";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createLowlight } from "lowlight";
import type { ReactNode } from "react";

const lowlight = createLowlight({
  bash,
  css,
  dockerfile,
  go,
  ini,
  java,
  javascript,
  json,
  python,
  rust,
  sql,
  typescript,
  xml,
  yaml,
});
lowlight.registerAlias({ bash: ["console", "shell", "sh", "zsh"], ini: ["toml"], json: ["jsonc"], yaml: ["yml"] });

/** Longer code stays plain: colouring it at every token would hold up the page. */
const LONGEST = 20_000;

export function highlight(code: string, language: string): ReactNode {
  if (code.length > LONGEST || !lowlight.registered(language)) return code;
  return lowlight.highlight(language, code).children.map(toElement);
}

type Node = ReturnType<typeof lowlight.highlight>["children"][number];

function toElement(node: Node, index: number): ReactNode {
  if (node.type === "text") return node.value;
  if (node.type !== "element") return null;
  const names = node.properties["className"];
  return (
    <span key={index} className={Array.isArray(names) ? names.join(" ") : undefined}>
      {node.children.map((child, at) => toElement(child as Node, at))}
    </span>
  );
}
