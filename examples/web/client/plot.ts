// The throughput plot: two lines on a canvas, the last minute, drawn anew for each sample. Browser.
//
// Colours come from the style sheet, so the plot follows the page into the dark.

import { KEPT_SECONDS, type Sample } from '../messages.js';
import { formatRate, niceCeiling } from './format.js';

const WINDOW_MS = KEPT_SECONDS * 1000;
const MARGIN = { top: 10, right: 10, bottom: 22, left: 74 };
const GRID_LINES = 4;

/** Bytes a second between two samples. */
export interface Rate {
  /** Of the later sample. */
  readonly at: number;
  readonly toGuest: number;
  readonly fromGuest: number;
}

/** The rate between a sample and the one before it. */
export function rateBetween(before: Sample, after: Sample): Rate {
  const seconds = Math.max(1, after.at - before.at) / 1000;
  const rate = (from: number, to: number): number => Math.max(0, to - from) / seconds;
  return {
    at: after.at,
    toGuest: rate(before.toGuest, after.toGuest),
    fromGuest: rate(before.fromGuest, after.fromGuest),
  };
}

interface Area {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** Draws rates on a canvas that is as large as its place in the page. */
export class Plot {
  private readonly canvas: HTMLCanvasElement;
  private readonly context: CanvasRenderingContext2D;
  private rates: Rate[] = [];
  private planned = false;

  constructor(canvas: HTMLCanvasElement) {
    const context = canvas.getContext('2d');
    if (context === null) throw new Error('this browser has no canvas');
    this.canvas = canvas;
    this.context = context;
    new ResizeObserver(this.drawSoon).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', this.drawSoon);
  }

  add(rate: Rate): void {
    this.rates.push(rate);
    this.rates = this.rates.filter(({ at }) => at > rate.at - WINDOW_MS);
    this.drawSoon();
  }

  clear(): void {
    this.rates = [];
    this.drawSoon();
  }

  private readonly drawSoon = (): void => {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => {
      this.planned = false;
      this.draw();
    });
  };

  private draw(): void {
    const { canvas, context } = this;
    const { width, height } = canvas.getBoundingClientRect();
    const scale = devicePixelRatio;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    context.scale(scale, scale);
    const area: Area = {
      left: MARGIN.left,
      top: MARGIN.top,
      width: width - MARGIN.left - MARGIN.right,
      height: height - MARGIN.top - MARGIN.bottom,
    };
    if (area.width <= 0 || area.height <= 0) return;
    const top = niceCeiling(Math.max(0, ...this.rates.flatMap(({ toGuest, fromGuest }) => [toGuest, fromGuest])));
    this.drawGrid(area, top);
    this.drawLine(area, top, '--from-guest', (rate) => rate.fromGuest);
    this.drawLine(area, top, '--to-guest', (rate) => rate.toGuest);
  }

  private drawGrid(area: Area, top: number): void {
    const { context } = this;
    context.font = `12px ${getComputedStyle(this.canvas).fontFamily}`;
    context.fillStyle = this.colour('--muted');
    context.strokeStyle = this.colour('--line');
    context.lineWidth = 1;
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    for (let index = 0; index <= GRID_LINES; index++) {
      // On the middle of a pixel, or a thin line is a wide grey one.
      const y = Math.round(area.top + (area.height * index) / GRID_LINES) + 0.5;
      context.beginPath();
      context.moveTo(area.left, y);
      context.lineTo(area.left + area.width, y);
      context.stroke();
      if (index % 2 === 0) context.fillText(formatRate(top * (1 - index / GRID_LINES)), area.left - 8, y);
    }
    context.textBaseline = 'bottom';
    const bottom = area.top + area.height + MARGIN.bottom;
    for (const seconds of [0, 15, 30, 45, 60]) {
      const x = area.left + area.width * (1 - seconds / KEPT_SECONDS);
      context.textAlign = seconds === 0 ? 'right' : seconds === KEPT_SECONDS ? 'left' : 'center';
      context.fillText(seconds === 0 ? 'now' : `${seconds} s`, x, bottom);
    }
  }

  private drawLine(area: Area, top: number, property: string, value: (rate: Rate) => number): void {
    const { context, rates } = this;
    const last = rates.at(-1);
    if (last === undefined) return;
    const x = (rate: Rate): number => area.left + area.width * (1 - (last.at - rate.at) / WINDOW_MS);
    const y = (rate: Rate): number => area.top + area.height * (1 - value(rate) / top);
    context.save();
    context.beginPath();
    context.rect(area.left, area.top - 1, area.width, area.height + 2);
    context.clip();
    const colour = this.colour(property);
    context.beginPath();
    rates.forEach((rate) => context.lineTo(x(rate), y(rate)));
    context.lineWidth = 2;
    context.lineJoin = 'round';
    context.strokeStyle = colour;
    context.stroke();
    context.lineTo(x(last), area.top + area.height);
    context.lineTo(x(rates[0]), area.top + area.height);
    context.globalAlpha = 0.14;
    context.fillStyle = colour;
    context.fill();
    context.restore();
  }

  private colour(property: string): string {
    return getComputedStyle(this.canvas).getPropertyValue(property).trim();
  }
}
