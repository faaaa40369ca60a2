/** Every model the server knows: its state, its load, and what can be done with it. */

import { Loader, TextInput } from "@mantine/core";
import { useMediaQuery } from "@mantine/hooks";
import { useMemo, useState } from "react";
import { useLocation, useSearch } from "wouter";
import type { Model } from "../api";
import { SearchIcon } from "../icons";
import { useFreshModels, useServer } from "../server";
import { keyOf, useModelActions } from "./actions";
import page from "../shell/Page.module.css";
import { formatBytes } from "./format";
import { ModelCards } from "./ModelCards";
import { ModelDrawer } from "./ModelDrawer";
import { ModelTable } from "./ModelTable";
import classes from "./Models.module.css";

const REFRESH_MS = 2000;

export default function ModelsPage() {
  useFreshModels(REFRESH_MS);
  const { models, connection, adminError } = useServer();
  const [filter, setFilter] = useState("");
  const narrow = useMediaQuery("(max-width: 60em)", false, { getInitialValueInEffect: false });
  const actions = useModelActions();
  const [opened, open] = useOpenedModel(models);
  const shown = useMemo(() => models.filter((model) => matches(model, filter)), [models, filter]);
  const List = narrow ? ModelCards : ModelTable;

  return (
    <div className={page.page}>
      <div className={page.inner}>
        <div className={page.head}>
          <div>
            <h1>Models</h1>
            <Summary />
          </div>
          <TextInput
            className={classes.search}
            type="search"
            placeholder="Name, runtime, task, state…"
            aria-label="Filter the models"
            leftSection={<SearchIcon />}
            value={filter}
            onChange={(event) => setFilter(event.currentTarget.value)}
          />
        </div>
        {shown.length > 0 ? (
          <List models={shown} actions={actions} onOpen={open} />
        ) : (
          <div className={classes.nothing}>
            {connection === "connecting" ? <Loader size="sm" /> : emptyText(models.length, filter, adminError)}
          </div>
        )}
        <BrokenFolders />
      </div>
      <ModelDrawer model={opened} actions={actions} onClose={() => open(null)} />
    </div>
  );
}

/** The model in the address, so that a drawer can be linked to and the back button closes it. */
function useOpenedModel(models: Model[]): [Model | null, (model: Model | null) => void] {
  const [, navigate] = useLocation();
  const key = new URLSearchParams(useSearch()).get("open");
  const opened = models.find((model) => keyOf(model) === key) ?? null;
  return [opened, (model) => navigate(model ? `/models?open=${encodeURIComponent(keyOf(model))}` : "/models")];
}

function Summary() {
  const { models, system } = useServer();
  if (models.length === 0) return null;
  const ready = models.filter((model) => model.state === "ready").length;
  const held = models.reduce((sum, model) => sum + (model.memory_bytes ?? 0), 0);
  return (
    <p>
      {ready} of {models.length} ready
      {held > 0 && `, holding ${formatBytes(held)}`}
      {held > 0 && system && ` of ${formatBytes(system.memory_total_bytes)}`}
    </p>
  );
}

function BrokenFolders() {
  const { broken } = useServer();
  if (broken.length === 0) return null;
  return (
    <section className={classes.broken}>
      <h2>Folders that are no models</h2>
      <ul>
        {broken.map(({ folder, message }) => (
          <li key={folder}>
            <code>{folder}</code>
            <p>{message}</p>
          </li>
        ))}
      </ul>
    </section>
  );
}

function matches(model: Model, filter: string): boolean {
  const fields = [keyOf(model), model.runtime, model.task, model.state, model.description, model.licence];
  const text = [...fields, ...model.tags, ...model.capabilities, ...model.routes].join(" ").toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function emptyText(count: number, filter: string, adminError: string | null): string {
  if (adminError) return `The models cannot be shown. ${adminError}`;
  if (count > 0) return `No model matches “${filter}”.`;
  return "The server has no models yet. Add one to its model folder.";
}
