/** Boxes with their names over a picture of any displayed size. */

import type { Placed } from "./boxes";
import classes from "./Vision.module.css";

interface Props {
  width: number;
  height: number;
  placed: Placed[];
}

export function Overlay({ width, height, placed }: Props) {
  const unit = Math.max(width, height) / 100;
  return (
    <svg className={classes.overlay} viewBox={`0 0 ${width} ${height}`} aria-hidden="true" data-testid="overlay">
      {placed.map(({ key, text, tone, box: [x0, y0, x1, y1] }) => {
        const wide = (text.length * 1.55 + 1.4) * unit;
        const labelX = Math.min(x0, Math.max(0, width - wide));
        const labelY = y0 > 3.6 * unit ? y0 - 3.6 * unit : y0;
        return (
          <g key={key} data-tone={tone}>
            <rect className={classes.box} x={x0} y={y0} width={x1 - x0} height={y1 - y0} rx={unit * 0.5} />
            <rect className={classes.tag} x={labelX} y={labelY} width={wide} height={3.4 * unit} rx={unit * 0.5} />
            <text x={labelX + 0.7 * unit} y={labelY + 2.5 * unit} fontSize={2.4 * unit}>
              {text}
            </text>
          </g>
        );
      })}
    </svg>
  );
}
