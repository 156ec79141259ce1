// Registers and bits of the 16550A UART, by the names of its data sheet (National Semiconductor PC16550D), and the
// legacy places of the first serial port of a PC.

/** I/O port of the first register of COM1; there are eight. */
export const COM1_PORT = 0x3f8;
export const COM1_IRQ = 4;
export const SERIAL_PORT_COUNT = 8;

/** Register offsets. R: read, W: write, DLAB: only while LCR.DLAB is 1. */
export const REG = {
  /** R: receiver buffer. W: transmitter holding. DLAB: divisor latch, low byte. */
  RBR_THR_DLL: 0,
  /** RW: interrupt enable. DLAB: divisor latch, high byte. */
  IER_DLM: 1,
  /** R: interrupt identification. W: FIFO control. */
  IIR_FCR: 2,
  LCR: 3,
  MCR: 4,
  LSR: 5,
  MSR: 6,
  SCR: 7,
} as const;

export const IER_ERBFI = 0x01; // received data available
export const IER_ETBEI = 0x02; // transmitter holding register empty
export const IER_ELSI = 0x04; // receiver line status
export const IER_WRITABLE_MASK = 0x0f;

export const IIR_NO_INTERRUPT = 0x01;
export const IIR_THR_EMPTY = 0x02;
export const IIR_RECEIVED_DATA = 0x04;
export const IIR_LINE_STATUS = 0x06;
export const IIR_FIFOS_ENABLED = 0xc0;

export const FCR_FIFO_ENABLE = 0x01;
export const FCR_RCVR_RESET = 0x02;
/** What is kept of a written FCR: enable, DMA mode, trigger level. The reset bits clear themselves. */
export const FCR_KEPT_MASK = 0xc9;

export const LCR_DLAB = 0x80;

export const MCR_DTR = 0x01;
export const MCR_RTS = 0x02;
export const MCR_OUT1 = 0x04;
export const MCR_OUT2 = 0x08;
export const MCR_LOOP = 0x10;
export const MCR_WRITABLE_MASK = 0x1f;

export const LSR_DR = 0x01;
export const LSR_OE = 0x02;
export const LSR_THRE = 0x20;
export const LSR_TEMT = 0x40;

export const MSR_CTS = 0x10;
export const MSR_DSR = 0x20;
export const MSR_RI = 0x40;
export const MSR_DCD = 0x80;
