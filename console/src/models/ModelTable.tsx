/** The models as a table, for wide screens. */

import type { Model } from "../api";
import { useServer } from "../server";
import type { ModelActions } from "./actions";
import { keyOf } from "./actions";
import { formatBytes } from "./format";
import { ModelButtons, ModelNotice } from "./ModelButtons";
import { StateBadge } from "./StateBadge";
import classes from "./Models.module.css";

export interface ModelListProps {
  models: Model[];
  actions: ModelActions;
  onOpen: (model: Model) => void;
}

export function ModelTable({ models, actions, onOpen }: ModelListProps) {
  return (
    <table className={classes.table}>
      <thead>
        <tr>
          <th>Model</th>
          <th>Task and runtime</th>
          <th>State</th>
          <th className={classes.number}>Memory</th>
          <th className={classes.number} title="Requests being answered / waiting">
            In flight / queued
          </th>
          <th className={classes.number}>Restarts</th>
          <th>
            <span className={classes.hiddenText}>Actions</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {models.map((model) => (
          <ModelRow key={keyOf(model)} model={model} actions={actions} onOpen={onOpen} />
        ))}
      </tbody>
    </table>
  );
}

function ModelRow({ model, actions, onOpen }: { model: Model } & Omit<ModelListProps, "models">) {
  return (
    <tr data-model={keyOf(model)}>
      <td className={classes.nameCell}>
        <ModelName model={model} onOpen={onOpen} />
        {model.description && <p className={classes.description}>{model.description}</p>}
        <p className={classes.facts}>
          <RoutesAndLicence model={model} />
        </p>
        <ModelNotice model={model} actions={actions} />
      </td>
      <td className={classes.kind}>
        {model.task}
        <small>{model.runtime}</small>
      </td>
      <td>
        <StateBadge state={model.state} />
      </td>
      <td className={classes.number}>{formatBytes(model.memory_bytes)}</td>
      <td className={classes.number}>
        {model.in_flight} / {model.queued}
      </td>
      <td className={classes.number} data-warn={model.restarts > 0 || undefined}>
        {model.restarts}
      </td>
      <td className={classes.buttonsCell}>
        <ModelButtons model={model} actions={actions} />
      </td>
    </tr>
  );
}

/** The public names that lead to the model, each with its rule, then the licence: pieces of a line of facts. */
export function RoutesAndLicence({ model }: { model: Model }) {
  const { routes } = useServer();
  const words = model.routes.map((name) => {
    const rule = routes.find((route) => route.name === name)?.rule;
    return rule ? `${name} (${rule})` : name;
  });
  return (
    <>
      <span title="Public names that lead here">{words.length > 0 ? `routes: ${words.join(", ")}` : "no route"}</span>
      {model.licence && <span title="Licence">{model.licence}</span>}
    </>
  );
}

export function ModelName({ model, onOpen }: { model: Model; onOpen: (model: Model) => void }) {
  return (
    <button type="button" className={classes.name} onClick={() => onOpen(model)} title="Show the details">
      <span>{model.name}</span>
      <span className={classes.version}>:{model.version}</span>
    </button>
  );
}
