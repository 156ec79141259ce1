#!/usr/bin/env node
// `tsvmm-remote`: `tsvmm ctl` by a name of its own.

process.argv.splice(2, 0, 'ctl');
await import('./main.js');
