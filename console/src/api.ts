/** Every call to the server and the shape of every answer. Knows no React and keeps no state but the key. */

import { readSse, type SseEvent } from "./sse";

export type ModelState = "unloaded" | "loading" | "ready" | "draining" | "failed";

export interface TensorSpec {
  name: string;
  dtype: string;
  shape: number[];
}

export interface Signature {
  inputs: TensorSpec[];
  outputs: TensorSpec[];
}

export interface Model {
  name: string;
  version: string;
  runtime: string;
  task: string;
  state: ModelState;
  executor: string;
  pid: number | null;
  memory_bytes: number | null;
  size_bytes: number | null;
  in_flight: number;
  queued: number;
  restarts: number;
  loaded_at: string | null;
  last_used_at: string | null;
  error: { code: string; message: string } | null;
  description: string;
  licence: string;
  tags: string[];
  capabilities: string[];
  signature: Signature | null;
  /** The longest conversation in tokens; null for models without one. */
  context_length?: number | null;
  routes: string[];
  memory_returned_bytes?: number;
}

export interface ModelDetails extends Model {
  manifest: Record<string, unknown>;
}

/** A folder of the repository that looks like a model and is none. */
export interface BrokenFolder {
  folder: string;
  message: string;
}

export interface Route {
  name: string;
  rule: string;
  target: { name: string; version: string } | null;
}

export interface SystemInfo {
  version: string;
  python: string;
  cpu: { model: string; cores: number; features: string[] };
  memory_total_bytes: number;
  memory_available_bytes: number;
  server_memory_bytes: number;
  runtimes: { name: string; available: boolean; version?: string | null }[];
}

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatRequest {
  model: string;
  messages: ChatMessage[];
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  seed?: number;
  reasoning_effort?: string;
}

export interface InferTensor {
  name: string;
  shape: number[];
  datatype: string;
  data: unknown[];
}

export interface InferResponse {
  model_name: string;
  model_version: string;
  outputs: InferTensor[];
}

export interface LabelScore {
  label: string;
  score: number;
}

/** `box` is x0, y0, x1, y1 in pixels of the upright picture. */
export interface Found extends LabelScore {
  box: [number, number, number, number];
}

export interface Report {
  model: string;
  version: string;
  latency_ms: number;
}

export interface ImageAnalysis {
  results: { labels?: LabelScore[]; objects?: Found[] }[];
  models: Record<string, Report>;
  latency_ms: number;
}

export interface Scene {
  start_s: number;
  end_s: number;
}

export interface Track {
  id: number;
  label: string;
  first_s: number;
  last_s: number;
  boxes: { time_s: number; score: number; box: Found["box"] }[];
}

export interface VideoAnalysis {
  video: { codec: string; width: number; height: number; fps: number; duration_s: number };
  sampled: number;
  models: Record<string, Report>;
  latency_ms: number;
  scenes?: Scene[];
  tracks?: Track[];
}

/** Status 0: the server could not be reached. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
  }
}

const KEY = "inference-engine.api-key";

export function hasApiKey(): boolean {
  return window.sessionStorage.getItem(KEY) !== null;
}

export function setApiKey(key: string): void {
  if (key) window.sessionStorage.setItem(KEY, key);
  else window.sessionStorage.removeItem(KEY);
}

type UnauthorizedListener = () => void;
const unauthorizedListeners = new Set<UnauthorizedListener>();

/** Calls `listener` at each 401, whoever made the request. Returns the function that ends it. */
export function onUnauthorized(listener: UnauthorizedListener): () => void {
  unauthorizedListeners.add(listener);
  return () => unauthorizedListeners.delete(listener);
}

interface CallOptions {
  body?: unknown;
  signal?: AbortSignal;
}

async function send(method: "GET" | "POST", path: string, options: CallOptions = {}): Promise<Response> {
  const headers = new Headers();
  const key = window.sessionStorage.getItem(KEY);
  const form = options.body instanceof FormData ? options.body : null;
  if (key) headers.set("Authorization", `Bearer ${key}`);
  if (options.body !== undefined && !form) headers.set("Content-Type", "application/json");
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      cache: "no-store",
      body: form ?? (options.body === undefined ? null : JSON.stringify(options.body)),
      signal: options.signal ?? null,
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Check that it is running, then try again.", 0);
  }
  if (response.ok) return response;
  if (response.status === 401) unauthorizedListeners.forEach((listener) => listener());
  throw await errorOf(response);
}

async function errorOf(response: Response): Promise<ApiError> {
  const retryAfter = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const body: unknown = await response.json().catch(() => null);
  const { message, code } = readError(body);
  return new ApiError(
    message ?? `The server answered ${response.status} ${response.statusText}`.trim(),
    response.status,
    code,
    Number.isFinite(retryAfter) ? retryAfter : null,
  );
}

/** Reads `{"error": {"message", "code"}}` (OpenAI, admin) and `{"error": "text"}` (Open Inference v2). */
export function readError(body: unknown): { message: string | null; code: string | null } {
  const error = isRecord(body) ? body["error"] : undefined;
  if (typeof error === "string") return { message: error, code: null };
  if (!isRecord(error)) return { message: null, code: null };
  const { message, code } = error;
  return {
    message: typeof message === "string" ? message : null,
    code: typeof code === "string" ? code : null,
  };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function get<T>(path: string): Promise<T> {
  return (await (await send("GET", path)).json()) as T;
}

async function post<T>(path: string, body?: unknown): Promise<T> {
  return (await (await send("POST", path, { body })).json()) as T;
}

function modelPath(model: { name: string; version: string }): string {
  return `${encodeURIComponent(model.name)}/${encodeURIComponent(model.version)}`;
}

export async function listPublicNames(): Promise<string[]> {
  return (await get<{ data: { id: string }[] }>("/v1/models")).data.map((entry) => entry.id);
}

export const listModels = () => get<{ models: Model[]; broken?: BrokenFolder[] }>("/admin/models");

export async function listRoutes(): Promise<Route[]> {
  return (await get<{ routes: Route[] }>("/admin/routes")).routes;
}

export const getSystem = () => get<SystemInfo>("/admin/system");

export const getModel = (model: { name: string; version: string }) =>
  get<ModelDetails>(`/admin/models/${modelPath(model)}`);

export const loadModel = (model: Model) => post<Model>(`/admin/models/${modelPath(model)}/load`);

export const unloadModel = (model: Model) => post<Model>(`/admin/models/${modelPath(model)}/unload`);

export function infer(model: Model, inputs: InferTensor[]): Promise<InferResponse> {
  const [name, version] = [encodeURIComponent(model.name), encodeURIComponent(model.version)];
  return post<InferResponse>(`/v2/models/${name}/versions/${version}/infer`, { inputs });
}

export async function analyzeImage(file: Blob, signal: AbortSignal): Promise<ImageAnalysis> {
  const body = new FormData();
  body.set("file", file);
  return (await (await send("POST", "/inference/image", { body, signal })).json()) as ImageAnalysis;
}

/** Calls `onProgress` with the share that is done; aborting `signal` ends the computation. */
export async function analyzeVideo(
  file: Blob,
  everyS: number,
  signal: AbortSignal,
  onProgress: (share: number) => void,
): Promise<VideoAnalysis> {
  const body = new FormData();
  body.set("file", file);
  body.set("tasks", "scenes,track");
  body.set("sample", JSON.stringify({ every_s: everyS }));
  body.set("stream", "true");
  const response = await send("POST", "/inference/video", { body, signal });
  if (!response.body) throw new ApiError("The server sent no answer.", response.status);
  for await (const events of readSse(response.body)) {
    for (const { data } of events) {
      const event: unknown = JSON.parse(data);
      if (!isRecord(event)) continue;
      if (event["type"] === "result") return event as unknown as VideoAnalysis;
      if (event["error"] !== undefined) throw new ApiError(readError(event).message ?? "The video failed.", 200);
      if (typeof event["progress"] === "number") onProgress(event["progress"]);
    }
  }
  throw new ApiError("The answer ended too early.", 200);
}

/** Streams a chat completion; aborting `signal` closes the connection, and with it the computation. */
export async function* streamChat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<SseEvent[], void> {
  const response = await send("POST", "/v1/chat/completions", {
    body: { ...request, stream: true, stream_options: { include_usage: true } },
    signal,
  });
  if (!response.body) throw new ApiError("The server sent no answer.", response.status);
  yield* readSse(response.body);
}
