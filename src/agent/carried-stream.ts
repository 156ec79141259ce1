// A TCP or Unix connection inside the guest as the agent carries it: frames of bytes on a session, as a Duplex. Main thread.
//
//   end()      BYTES_END, behind everything that was written; the program in the guest sees the end
//   'end'      the program has ended its side
//   destroy()  before both have ended: the program's connection is reset
//   'error'    it was reset in the guest, or the guest or its agent is gone. Never after 'end' and 'finish'

import { Duplex } from 'node:stream';
import { type AgentSession, unexpected } from './session.js';
import { FRAME } from './protocol.js';

/** The most that goes in one frame: the agent passes on what it has of one anyway. */
const PIECE_BYTES = 65_536;

type Callback = (error?: Error | null) => void;

export class CarriedStream extends Duplex {
  private readonly session: AgentSession;
  private wantsData = false;
  private reading = false;
  private endReceived = false;
  private endSent = false;

  /** Of a session whose next frames are the connection's. */
  constructor(session: AgentSession) {
    super({ allowHalfOpen: true, readableHighWaterMark: PIECE_BYTES, writableHighWaterMark: PIECE_BYTES });
    this.session = session;
    // What a guest does must not end this process because nobody listens.
    this.on('error', () => undefined);
  }

  override _read(): void {
    this.wantsData = true;
    if (!this.reading) void this.receive();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    this.sendPieces(chunk).then(() => {
      callback();
    }, callback);
  }

  override _final(callback: Callback): void {
    this.endSent = true;
    this.session.sendAll(FRAME.BYTES_END).then(() => {
      callback();
    }, callback);
  }

  override _destroy(error: Error | null, callback: Callback): void {
    if (error === null && this.endSent && this.endReceived) this.session.close();
    else this.session.destroy();
    callback(error);
  }

  private async sendPieces(chunk: Buffer): Promise<void> {
    for (let start = 0; start < chunk.length; start += PIECE_BYTES) {
      await this.session.sendAll(FRAME.BYTES, chunk.subarray(start, start + PIECE_BYTES));
    }
  }

  /** Takes frames as long as somebody wants what is in them; behind the end, to hear of a reset. */
  private async receive(): Promise<void> {
    this.reading = true;
    try {
      while (this.wantsData && !this.endReceived) await this.takeFrame();
      this.reading = false;
      if (this.endReceived) await this.waitForClose();
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.reading = false;
    }
  }

  private async takeFrame(): Promise<void> {
    const frame = await this.session.receive();
    if (this.destroyed) return;
    const { type, payload } = frame;
    if (type === FRAME.BYTES_END && payload.length === 0) {
      this.endReceived = true;
      this.push(null);
      return;
    }
    if (type !== FRAME.BYTES) throw unexpected(frame);
    if (payload.length === 0) return;
    // `push` may call `_read`, whose wish must not be lost.
    this.wantsData = false;
    if (this.push(payload)) this.wantsData = true;
  }

  /** Nothing comes behind the end but the end of the session, which is a reset unless this side has ended, too. */
  private async waitForClose(): Promise<void> {
    let frame;
    try {
      frame = await this.session.receive();
    } catch (error) {
      if (this.endSent || this.destroyed) return;
      throw error;
    }
    throw unexpected(frame);
  }
}
