/** Draws what the built-in models know: circles, squares, triangles and stars. Knows the canvas, not the server. */

const COLOURS = ["#d1495b", "#00798c", "#edae49", "#30638e", "#6a4c93", "#2a9d5c", "#e07a2f"];
const SCENE_GROUNDS = ["#ffffff", "#9fb8d6"];
const GROUNDS = ["#ffffff", "#f3f0e7", "#e8eef2", "#dfe7d8"];
const KINDS = ["circle", "square", "triangle", "star"] as const;
const [WIDTH, HEIGHT] = [640, 400];
const [FRAMES_PER_S, SCENE_S, SCENES] = [25, 2.5, 2];

interface Shape {
  kind: (typeof KINDS)[number];
  colour: string;
  size: number;
  x: number;
  y: number;
  /** Pixels in a second. */
  dx: number;
  dy: number;
}

export async function drawImage(): Promise<File> {
  const canvas = newCanvas();
  draw(canvas, pick(GROUNDS), shapes(3), 0);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (!blob) throw new Error("This browser cannot make a PNG file.");
  return new File([blob], "drawing.png", { type: "image/png" });
}

/** Draws while it records, so it takes as long as the video. Aborting `signal` stops it. */
export async function drawVideo(signal: AbortSignal, onProgress: (share: number) => void): Promise<File> {
  if (typeof MediaRecorder === "undefined") throw new Error("This browser cannot record videos: choose a file.");
  const canvas = newCanvas();
  const scenes = Array.from({ length: SCENES }, (_, at) => ({ ground: SCENE_GROUNDS[at % 2]!, shapes: shapes(2 + at) }));
  const recorder = new MediaRecorder(canvas.captureStream(FRAMES_PER_S), { videoBitsPerSecond: 4_000_000 });
  const parts: Blob[] = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const recorded = new Promise<void>((done) => (recorder.onstop = () => done()));
  const started = performance.now();
  recorder.start();
  await new Promise<void>((done) => {
    const step = () => {
      const passed = (performance.now() - started) / 1000;
      const scene = scenes[Math.floor(passed / SCENE_S)];
      if (!scene || signal.aborted) return done();
      draw(canvas, scene.ground, scene.shapes, passed % SCENE_S);
      onProgress(passed / (SCENE_S * SCENES));
      window.setTimeout(step, 1000 / FRAMES_PER_S);
    };
    step();
  });
  recorder.stop();
  await recorded;
  signal.throwIfAborted();
  return new File(parts, "drawing.webm", { type: recorder.mimeType });
}

function newCanvas(): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  return canvas;
}

/** Shapes that do not cover each other at the start, each of another kind. */
function shapes(count: number): Shape[] {
  const kinds = [...KINDS].sort(() => Math.random() - 0.5);
  const column = WIDTH / count;
  return Array.from({ length: count }, (_, at) => ({
    kind: kinds[at % kinds.length]!,
    colour: pick(COLOURS),
    size: 46 + Math.random() * 24,
    x: column * (at + 0.5) + (Math.random() - 0.5) * 20,
    y: 110 + Math.random() * (HEIGHT - 220),
    dx: (Math.random() - 0.5) * 60,
    dy: (Math.random() - 0.5) * 120,
  }));
}

function draw(canvas: HTMLCanvasElement, ground: string, all: Shape[], seconds: number): void {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser cannot draw.");
  context.fillStyle = ground;
  context.fillRect(0, 0, WIDTH, HEIGHT);
  for (const shape of all) {
    const x = within(shape.x + shape.dx * seconds, shape.size, WIDTH - shape.size);
    const y = within(shape.y + shape.dy * seconds, shape.size, HEIGHT - shape.size);
    context.fillStyle = shape.colour;
    context.beginPath();
    outline(context, shape.kind, x, y, shape.size);
    context.fill();
  }
}

/** Back and forth between two walls. */
function within(value: number, low: number, high: number): number {
  const way = high - low;
  const at = (((value - low) % (2 * way)) + 2 * way) % (2 * way);
  return low + (at > way ? 2 * way - at : at);
}

function outline(context: CanvasRenderingContext2D, kind: Shape["kind"], x: number, y: number, size: number): void {
  if (kind === "circle") {
    context.arc(x, y, size, 0, 2 * Math.PI);
    return;
  }
  const radii = kind === "star" ? [size, size * 0.42] : [size];
  const corners = { square: 4, triangle: 3, star: 10 }[kind];
  const turn = kind === "square" ? Math.PI / 4 : -Math.PI / 2;
  for (let corner = 0; corner < corners; corner++) {
    const angle = turn + (corner / corners) * 2 * Math.PI;
    const radius = radii[corner % radii.length]!;
    context.lineTo(x + Math.cos(angle) * radius, y + Math.sin(angle) * radius);
  }
  context.closePath();
}

function pick<T>(from: readonly T[]): T {
  return from[Math.floor(Math.random() * from.length)]!;
}
