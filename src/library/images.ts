/**
 * Root images for guests, built without root privileges ([docs/images.md](../images.md)).
 *
 * @module root-images
 */

export { buildImage, type ImageFormat, type ImageOptions, type ImageReport, type ImageSource } from '../image/build.js';
export { ImageError, type ImageErrorCode } from '../image/errors.js';
export type { KernelModules, KernelModulesReport } from '../image/kernel-modules.js';
export type { DevicePolicy } from '../image/layer.js';
export type { ContainerRunConfig } from '../image/run-config.js';
