/** All that is known of one model: facts, routes, signature, manifest; and a place to try it. */

import { Drawer } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import { getModel, type Model, type TensorSpec } from "../api";
import { useServer } from "../server";
import type { ModelActions } from "./actions";
import { keyOf } from "./actions";
import { formatBytes, formatShape, formatTime } from "./format";
import { ModelButtons, ModelNotice } from "./ModelButtons";
import { StateBadge } from "./StateBadge";
import { TryIt } from "./TryIt";
import classes from "./Models.module.css";

interface Props {
  model: Model | null;
  actions: ModelActions;
  onClose: () => void;
}

export function ModelDrawer({ model, actions, onClose }: Props) {
  // The last model stays shown while the drawer slides out.
  const last = useRef(model);
  if (model) last.current = model;
  const shown = model ?? last.current;
  return (
    <Drawer opened={model !== null} onClose={onClose} size="lg" title={shown ? keyOf(shown) : ""}>
      {shown && <Details key={keyOf(shown)} model={shown} actions={actions} />}
    </Drawer>
  );
}

function Details({ model, actions }: { model: Model; actions: ModelActions }) {
  const tabular = model.task.startsWith("tabular");
  return (
    <div className={classes.details}>
      <div className={classes.detailsHead}>
        <StateBadge state={model.state} />
        <ModelButtons model={model} actions={actions} />
      </div>
      <ModelNotice model={model} actions={actions} />
      {model.description && <p>{model.description}</p>}
      <Facts model={model} />
      <Routes model={model} />
      {model.signature && (
        <section>
          <h3>Signature</h3>
          <Tensors title="Inputs" specs={model.signature.inputs} />
          <Tensors title="Outputs" specs={model.signature.outputs} />
        </section>
      )}
      {tabular && model.signature && <TryIt model={model} signature={model.signature} />}
      <ManifestText model={model} />
    </div>
  );
}

function Facts({ model }: { model: Model }) {
  const facts: [string, string][] = [
    ["Task", model.task],
    ["Runtime", model.runtime],
    ["Runs in", model.pid === null ? model.executor : `${model.executor}, process ${model.pid}`],
    ["Memory", formatBytes(model.memory_bytes)],
    ["Size on disk", formatBytes(model.size_bytes)],
    ["In flight / queued", `${model.in_flight} / ${model.queued}`],
    ["Context", model.context_length ? `${model.context_length} tokens` : "–"],
    ["Restarts", String(model.restarts)],
    ["Loaded", formatTime(model.loaded_at)],
    ["Last used", formatTime(model.last_used_at)],
    ["Licence", model.licence || "–"],
    ["Capabilities", model.capabilities.join(", ") || "–"],
    ["Tags", model.tags.join(", ") || "–"],
  ];
  return (
    <dl className={classes.factList}>
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Routes({ model }: { model: Model }) {
  const { routes } = useServer();
  const rules = new Map(routes.map((route) => [route.name, route.rule]));
  return (
    <section>
      <h3>Routes</h3>
      {model.routes.length === 0 && <p className={classes.dim}>No public name leads here.</p>}
      <ul className={classes.routes}>
        {model.routes.map((name) => (
          <li key={name}>
            <code>{name}</code>
            {rules.has(name) && <span className={classes.dim}>{rules.get(name)}</span>}
          </li>
        ))}
      </ul>
    </section>
  );
}

function Tensors({ title, specs }: { title: string; specs: TensorSpec[] }) {
  return (
    <table className={classes.tensors}>
      <caption>{title}</caption>
      <tbody>
        {specs.map((spec) => (
          <tr key={spec.name}>
            <th scope="row">{spec.name}</th>
            <td>{spec.dtype}</td>
            <td>{formatShape(spec.shape)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function ManifestText({ model }: { model: Model }) {
  const [text, setText] = useState<string | null>(null);
  const { name, version } = model;
  useEffect(() => {
    let current = true;
    getModel({ name, version }).then(
      (details) => current && setText(JSON.stringify(details.manifest, null, 2)),
      (error: unknown) => current && setText(error instanceof Error ? error.message : String(error)),
    );
    return () => {
      current = false;
    };
  }, [name, version]);
  return (
    <section>
      <h3>Manifest</h3>
      <pre className={classes.code} tabIndex={0}>
        {text ?? "…"}
      </pre>
    </section>
  );
}
