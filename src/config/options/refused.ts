// Keys of Cloud Hypervisor that several of its options have and tsvmm does not, each with the reason and what to do
// instead.

/** What tells Cloud Hypervisor where on its PCI bus a device is. */
export const PCI_KEYS = {
  iommu: 'Devices are on virtio-mmio, and there is no virtual IOMMU; leave this out.',
  pci_segment: 'Devices are on virtio-mmio, and there is no PCI bus; leave this out.',
  pci_device_id: 'Devices are on virtio-mmio, and there is no PCI bus; leave this out.',
} as const;

/** The same for a device of which there is one at most. */
export const PCI_KEYS_OF_ONLY_DEVICE = {
  id: 'There is one such device, which goes by its kind; leave this out.',
  ...PCI_KEYS,
} as const;
