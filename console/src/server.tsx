/** What the console knows of its server, polled while the tab is visible. Knows no page. */

import { createContext, useCallback, useContext, useEffect, useMemo, useRef, useState, type ReactNode } from "react";
import {
  ApiError,
  getSystem,
  listModels,
  listPublicNames,
  listRoutes,
  onUnauthorized,
  type BrokenFolder,
  type Model,
  type Route,
  type SystemInfo,
} from "./api";

export type Connection = "connecting" | "online" | "offline" | "unauthorized";

interface Snapshot {
  publicNames: string[];
  models: Model[];
  broken: BrokenFolder[];
  routes: Route[];
  /** Why models and routes could not be read though the server answers; null when they could. */
  adminError: string | null;
}

export interface Server extends Snapshot {
  connection: Connection;
  system: SystemInfo | null;
  refresh: () => Promise<void>;
  /** Polls every `intervalMs` until the returned function is called. */
  watch: (intervalMs: number) => () => void;
}

const EMPTY: Snapshot = { publicNames: [], models: [], broken: [], routes: [], adminError: null };
const IDLE_INTERVAL_MS = 15_000;
const RETRY_INTERVAL_MS = 4_000;

const ServerContext = createContext<Server | null>(null);

export function useServer(): Server {
  const server = useContext(ServerContext);
  if (!server) throw new Error("useServer needs a ServerProvider around it");
  return server;
}

/** Keeps the models fresh at `intervalMs` while the calling component is mounted. */
export function useFreshModels(intervalMs: number): void {
  const { watch } = useServer();
  useEffect(() => watch(intervalMs), [watch, intervalMs]);
}

async function readSnapshot(): Promise<Snapshot> {
  const publicNames = await listPublicNames();
  try {
    const [{ models, broken = [] }, routes] = await Promise.all([listModels(), listRoutes()]);
    return { publicNames, models, broken, routes, adminError: null };
  } catch (error) {
    // A key may be good for the models and not for their administration.
    if (error instanceof ApiError && error.status >= 400 && error.status !== 401) {
      return { ...EMPTY, publicNames, adminError: error.message };
    }
    throw error;
  }
}

export function ServerProvider({ children }: { children: ReactNode }) {
  const [connection, setConnection] = useState<Connection>("connecting");
  const [snapshot, setSnapshot] = useState<Snapshot>(EMPTY);
  const [system, setSystem] = useState<SystemInfo | null>(null);
  const [intervals, setIntervals] = useState<readonly number[]>([]);
  const hasSystem = useRef(false);

  const refresh = useCallback(async () => {
    try {
      setSnapshot(await readSnapshot());
      setConnection("online");
      if (!hasSystem.current) {
        hasSystem.current = true;
        setSystem(await getSystem().catch(() => null));
      }
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      hasSystem.current = false;
      setConnection(status === 401 ? "unauthorized" : "offline");
    }
  }, []);

  const watch = useCallback((intervalMs: number) => {
    setIntervals((before) => [...before, intervalMs]);
    return () =>
      setIntervals((before) => {
        const at = before.indexOf(intervalMs);
        return before.filter((_, index) => index !== at);
      });
  }, []);

  useEffect(() => onUnauthorized(() => setConnection("unauthorized")), []);

  const wanted = Math.min(IDLE_INTERVAL_MS, ...intervals);
  const intervalMs = connection === "offline" ? RETRY_INTERVAL_MS : wanted;
  usePolling(refresh, intervalMs, connection !== "unauthorized");

  const server = useMemo<Server>(
    () => ({ ...snapshot, connection, system, refresh, watch }),
    [snapshot, connection, system, refresh, watch],
  );
  return <ServerContext.Provider value={server}>{children}</ServerContext.Provider>;
}

/** Calls `poll` at once, then `intervalMs` after each call ended; rests while the tab is hidden. */
function usePolling(poll: () => Promise<void>, intervalMs: number, active: boolean): void {
  useEffect(() => {
    if (!active) return;
    let timer: number | undefined;
    let stopped = false;
    let running = false;
    const run = async () => {
      window.clearTimeout(timer);
      if (running || stopped || document.hidden) return;
      running = true;
      await poll();
      running = false;
      if (!stopped) timer = window.setTimeout(() => void run(), intervalMs);
    };
    const onVisibility = () => void run();
    document.addEventListener("visibilitychange", onVisibility);
    void run();
    return () => {
      stopped = true;
      window.clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisibility);
    };
  }, [poll, intervalMs, active]);
}

/** The model a public name leads to, or null where the server has not told. */
export function modelBehind(publicName: string, { models, routes }: Pick<Snapshot, "models" | "routes">): Model | null {
  const target = routes.find((route) => route.name === publicName)?.target;
  return (
    models.find((model) => model.name === target?.name && model.version === target.version) ??
    models.find((model) => model.routes.includes(publicName)) ??
    models.find((model) => publicName === `${model.name}:${model.version}`) ??
    null
  );
}
