// Joins a socket of the host and a stream of the guest: bytes, ends and resets of one become those of the other. Main
// thread. Neither side is read faster than the other takes it.

import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { takeSocketError } from '../platform/socket-error.js';

/**
 * What a client has to hang up after a guest that closed both directions at once, as Linux gives a socket whose program has
 * closed it (tcp_fin_timeout).
 */
const ORPHAN_MS = 60_000;

/** Both are over when either has broken off, or both have ended each way. */
export function splice(socket: Socket, stream: Duplex): void {
  socket.on('error', () => undefined);
  stream.on('error', () => undefined);
  if (socket.destroyed || stream.destroyed) {
    stream.destroy();
    socket.resetAndDestroy();
    return;
  }
  socket.on('close', (hadError) => {
    // What it sent before it closed in order may still be on its way to the guest.
    const inOrder = !hadError && socket.readableEnded && socket.writableFinished;
    if (!inOrder) stream.destroy();
  });
  stream.on('close', () => {
    if (socket.destroyed) return;
    if (stream.errored !== null || !stream.readableEnded) socket.resetAndDestroy();
    else if (!socket.readableEnded) finishAlone(socket);
  });
  socket.on('end', () => {
    if (takeSocketError(socket) === 0) stream.end();
    else socket.destroy(new Error('it was reset'));
  });
  socket.pipe(stream, { end: false });
  stream.pipe(socket);
}

/** The guest takes nothing more: the client gets what is left, and the answer of a closed port to what it sends then. */
function finishAlone(socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), ORPHAN_MS);
  timer.unref();
  socket.on('close', () => {
    clearTimeout(timer);
  });
  socket.unpipe();
  socket.on('data', () => socket.resetAndDestroy());
  socket.resume();
}
