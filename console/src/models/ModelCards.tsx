/** The models as cards, for phones. */

import { keyOf } from "./actions";
import { formatBytes } from "./format";
import { ModelButtons, ModelNotice } from "./ModelButtons";
import { ModelName, RoutesAndLicence, type ModelListProps } from "./ModelTable";
import { StateBadge } from "./StateBadge";
import classes from "./Models.module.css";

export function ModelCards({ models, actions, onOpen }: ModelListProps) {
  return (
    <ul className={classes.cards}>
      {models.map((model) => (
        <li key={keyOf(model)} className={classes.card} data-model={keyOf(model)}>
          <div className={classes.cardHead}>
            <ModelName model={model} onOpen={onOpen} />
            <StateBadge state={model.state} />
          </div>
          {model.description && <p className={classes.description}>{model.description}</p>}
          <ModelNotice model={model} actions={actions} />
          <p className={classes.facts}>
            <span>{model.task}</span>
            <span>{model.runtime}</span>
            <RoutesAndLicence model={model} />
            {model.memory_bytes ? <span>{formatBytes(model.memory_bytes)}</span> : null}
            {model.in_flight + model.queued > 0 && (
              <span>
                {model.in_flight} in flight, {model.queued} queued
              </span>
            )}
            {model.restarts > 0 && (
              <span data-warn>
                {model.restarts} {model.restarts === 1 ? "restart" : "restarts"}
              </span>
            )}
          </p>
          <ModelButtons model={model} actions={actions} />
        </li>
      ))}
    </ul>
  );
}
