// Variables that samples take for granted and that stand for files (`with="kernel initramfs"`).

export const PLACEHOLDER_FILES: Readonly<Record<string, string>> = {
  kernel: 'vmlinux',
  initramfs: 'initramfs.cpio.gz',
};
