/** A video whose tracked objects are shown while it plays, and its scenes and tracks over time. */

import { useEffect, useRef, useState } from "react";
import type { VideoAnalysis } from "../api";
import { placedAt, seconds, TONES } from "./boxes";
import { Models } from "./Models";
import { Overlay } from "./Overlay";
import classes from "./Vision.module.css";

interface Props {
  url: string;
  name: string;
  found: VideoAnalysis | null;
  everyS: number;
}

export function VideoView({ url, name, found, everyS }: Props) {
  const video = useRef<HTMLVideoElement>(null);
  const timeS = useTime(video);
  const show = (at: number) => {
    if (video.current) video.current.currentTime = at;
  };
  return (
    <div className={classes.result}>
      <div className={classes.stage}>
        <video ref={video} src={url} aria-label={name} controls muted loop playsInline onLoadedMetadata={findDuration} />
        {found && (
          <Overlay
            width={found.video.width}
            height={found.video.height}
            placed={placedAt(found.tracks ?? [], timeS, everyS / 2)}
          />
        )}
      </div>
      {found && (
        <div className={classes.panel}>
          <Scenes found={found} onShow={show} />
          <Tracks found={found} timeS={timeS} onShow={show} />
          <section>
            <h2>File</h2>
            <p className={classes.dim}>
              {found.video.codec}, {found.video.width} × {found.video.height}, {seconds(found.video.duration_s)};{" "}
              {found.sampled} pictures looked at
            </p>
          </section>
          <Models models={found.models} latencyMs={found.latency_ms} />
        </div>
      )}
    </div>
  );
}

interface PartProps {
  found: VideoAnalysis;
  onShow: (timeS: number) => void;
}

function Scenes({ found: { scenes = [] }, onShow }: PartProps) {
  return (
    <section>
      <h2>Scenes</h2>
      <ol className={classes.scenes} data-testid="scenes">
        {scenes.map(({ start_s, end_s }) => (
          <li key={start_s}>
            <button type="button" onClick={() => onShow(start_s)}>
              {seconds(start_s)} – {seconds(end_s)}
            </button>
          </li>
        ))}
      </ol>
    </section>
  );
}

function Tracks({ found, timeS, onShow }: PartProps & { timeS: number }) {
  const { tracks = [], video } = found;
  const length = Math.max(video.duration_s, 0.001);
  return (
    <section>
      <h2>Objects over time</h2>
      {tracks.length === 0 && <p className={classes.dim}>None was found.</p>}
      <ul className={classes.tracks} data-testid="tracks">
        {tracks.map(({ id, label, first_s, last_s }) => (
          <li key={id} data-tone={id % TONES}>
            <button type="button" onClick={() => onShow(first_s)}>
              {label} #{id}
            </button>
            <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
              <rect
                className={classes.span}
                x={(first_s / length) * 100}
                width={Math.max(((last_s - first_s) / length) * 100, 1)}
                height="10"
              />
              <rect className={classes.now} x={(timeS / length) * 100} width="0.6" height="10" />
            </svg>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** The time of the picture that is shown, followed at each picture. */
function useTime(video: React.RefObject<HTMLVideoElement | null>): number {
  const [timeS, setTimeS] = useState(0);
  useEffect(() => {
    let request = 0;
    const follow = () => {
      if (video.current) setTimeS(video.current.currentTime);
      request = window.requestAnimationFrame(follow);
    };
    follow();
    return () => window.cancelAnimationFrame(request);
  }, [video]);
  return timeS;
}

/** Recorded videos do not say how long they are; a leap beyond their end makes the browser find out. */
function findDuration({ currentTarget: video }: React.SyntheticEvent<HTMLVideoElement>): void {
  if (Number.isFinite(video.duration)) return;
  video.addEventListener("durationchange", () => (video.currentTime = 0), { once: true });
  video.currentTime = Number.MAX_SAFE_INTEGER;
}
