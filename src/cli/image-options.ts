// The options of `tsvmm image`, for its parser and for help.

import type { CommandOption } from './options.js';

export const IMAGE_OPTIONS: readonly CommandOption[] = [
  {
    name: 'output',
    kind: 'value',
    usage: 'FILE',
    help: 'The image to write; a regular file there is replaced once the new one is whole',
  },
  {
    name: 'format',
    kind: 'value',
    usage: 'initramfs|ext4',
    help: 'What it is (by its name: .cpio and .cpio.gz are an initramfs, .ext4 and .img ext4)',
  },
  { name: 'folder', kind: 'value', usage: 'DIR', help: 'Put this folder into it; any number of times' },
  {
    name: 'program',
    kind: 'value',
    usage: 'NAME|PATH',
    help: 'Put this program of the host into it, with the libraries it needs; any number of times',
  },
  {
    name: 'docker-archive',
    kind: 'value',
    usage: 'FILE',
    help: 'Put the container image into it that docker save wrote; any number of times',
  },
  { name: 'oci-layout', kind: 'value', usage: 'DIR', help: 'Put the container image of an OCI layout into it' },
  { name: 'image', kind: 'value', usage: 'NAME', help: 'Which container image, where there are several' },
  {
    name: 'init',
    kind: 'value',
    usage: 'FILE',
    help: 'A program or script of the host that becomes /init (initramfs) or /sbin/init (ext4)',
  },
  {
    name: 'agent',
    kind: 'flag',
    usage: '',
    help: 'Put the guest agent into it, as /usr/sbin/tsvmm-agent, which the init has to start',
  },
  {
    name: 'agent-init',
    kind: 'flag',
    usage: '',
    help: 'The guest agent itself becomes the init: the guest then needs nothing else to run programs for the host',
  },
  {
    name: 'modules',
    kind: 'value',
    usage: 'DIR',
    help: 'Kernel modules for the agent as init to load: of /lib/modules/VERSION, or a root with that, what guests need',
  },
  { name: 'module', kind: 'value', usage: 'NAME', help: 'One more of those modules; any number of times' },
  {
    name: 'size',
    kind: 'value',
    usage: 'SIZE',
    help: 'Size of an ext4 image (what the content takes, and a quarter more)',
  },
  { name: 'owner', kind: 'value', usage: 'UID:GID', help: 'Who owns what is in folders (whoever does on the host)' },
  { name: 'mtime', kind: 'value', usage: 'SECONDS', help: 'Time of every file, in seconds since 1970 (its own)' },
  { name: 'devices', kind: 'value', usage: 'refuse|keep', help: 'What becomes of device nodes (refuse)' },
  { name: 'max-size', kind: 'value', usage: 'SIZE', help: 'What the content may be at most, unpacked (32G)' },
];
