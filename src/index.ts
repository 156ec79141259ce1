// The library's public face: what `import ... from 'tsvmm'` gives, by subject. Everything else may change without notice.
//
// What is to be public is exported by a file of src/library; each of them is a page of docs/reference (`npm run docs`).

export * from './library/agent.js';
export * from './library/configuration.js';
export * from './library/console.js';
export * from './library/images.js';
export * from './library/machine.js';
export * from './library/observing.js';
export * from './library/vsock.js';
