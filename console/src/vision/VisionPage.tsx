/** Images and videos: chosen, dropped, pasted or drawn here, and what the server's models see in them. */

import { Alert, Button, FileButton, Progress } from "@mantine/core";
import { useEffect, useRef, useState, type DragEvent } from "react";
import { analyzeImage, analyzeVideo, type ImageAnalysis, type VideoAnalysis } from "../api";
import { useServer } from "../server";
import page from "../shell/Page.module.css";
import { drawImage, drawVideo } from "./drawing";
import { ImageView } from "./ImageView";
import { VideoView } from "./VideoView";
import classes from "./Vision.module.css";

const EVERY_S = 0.2;

interface Shown {
  url: string;
  name: string;
  image: ImageAnalysis | null;
  video: VideoAnalysis | null;
  isVideo: boolean;
}

type Work = { what: string; share: number | null };

export default function VisionPage() {
  const { refresh } = useServer();
  const [shown, setShown] = useState<Shown | null>(null);
  const [work, setWork] = useState<Work | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [over, setOver] = useState(false);
  const running = useRef<AbortController | null>(null);

  useEffect(() => () => running.current?.abort(), []);
  useEffect(() => () => (shown ? URL.revokeObjectURL(shown.url) : undefined), [shown?.url]);

  /** One thing at a time: what is asked last counts. */
  const run = async (task: (signal: AbortSignal) => Promise<void>) => {
    running.current?.abort();
    const controller = (running.current = new AbortController());
    setError(null);
    try {
      await task(controller.signal);
    } catch (problem) {
      if (!controller.signal.aborted) setError(problem instanceof Error ? problem.message : String(problem));
    } finally {
      if (running.current === controller) setWork(null);
    }
  };

  const analyze = async (file: File, signal: AbortSignal) => {
    const isVideo = file.type.startsWith("video/");
    const next: Shown = { url: URL.createObjectURL(file), name: file.name, image: null, video: null, isVideo };
    setShown(next);
    setWork({ what: "Looking", share: null });
    if (isVideo) {
      const video = await analyzeVideo(file, EVERY_S, signal, (share) => setWork({ what: "Looking", share }));
      setShown({ ...next, video });
    } else {
      const image = await analyzeImage(file, signal);
      setShown({ ...next, image });
    }
    void refresh(); // the request may have loaded a model
  };

  const take = (file: File | null | undefined) => {
    if (!file) return;
    void run(async (signal) => {
      if (!/^(image|video)\//.test(file.type)) throw new Error(`“${file.name}” is neither an image nor a video.`);
      await analyze(file, signal);
    });
  };

  const drawAnImage = () => void run(async (signal) => analyze(await drawImage(), signal));

  const drawAVideo = () =>
    void run(async (signal) => {
      setWork({ what: "Drawing", share: 0 });
      await analyze(await drawVideo(signal, (share) => setWork({ what: "Drawing", share })), signal);
    });

  useEffect(() => {
    const paste = (event: ClipboardEvent) => take(event.clipboardData?.files[0]);
    window.addEventListener("paste", paste);
    return () => window.removeEventListener("paste", paste);
  }, []);

  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files[0]);
  };

  return (
    <div
      className={over ? `${page.page} ${classes.over}` : page.page}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
    >
      <div className={page.inner}>
        <div className={page.head}>
          <div>
            <h1>Vision</h1>
            <p>What the models see in an image or a video. Drop one here, or paste it.</p>
          </div>
          <div className={classes.buttons}>
            <FileButton onChange={take} accept="image/*,video/*">
              {(props) => <Button {...props}>Choose a file</Button>}
            </FileButton>
            <Button variant="default" onClick={drawAnImage}>
              Draw an image
            </Button>
            <Button variant="default" onClick={drawAVideo}>
              Draw a video
            </Button>
          </div>
        </div>
        {work && (
          <div className={classes.work} role="status">
            <span>{work.what}…</span>
            <Progress
              value={work.share === null ? 100 : work.share * 100}
              animated={work.share === null}
              aria-label={work.what}
              className={classes.progress ?? ""}
            />
            <Button variant="subtle" size="compact-xs" onClick={() => running.current?.abort()}>
              Stop
            </Button>
          </div>
        )}
        {error && (
          <Alert color="red" role="alert" title="That did not work" className={classes.error ?? ""}>
            {error}
          </Alert>
        )}
        {shown?.isVideo && <VideoView key={shown.url} url={shown.url} name={shown.name} found={shown.video} everyS={EVERY_S} />}
        {shown && !shown.isVideo && <ImageView key={shown.url} url={shown.url} name={shown.name} found={shown.image} />}
        {!shown && !work && <Empty />}
      </div>
    </div>
  );
}

function Empty() {
  return (
    <div className={classes.empty}>
      <p>
        The built-in models know four shapes: circles, squares, triangles and stars. Have some drawn to see them at work,
        or serve models of your own for photographs.
      </p>
    </div>
  );
}
