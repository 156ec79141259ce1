// A network interface of the host by its name: netdevice(7).
//
// Runs on the main thread, at set-up. Everything is asked first and changed only where it differs: reading takes no
// privilege, so a tap that somebody has prepared can be used without CAP_NET_ADMIN. Left out: IPv6 addresses, routes.

import { check, close, lastErrno, libc } from './libc.js';
import { EADDRNOTAVAIL, ENODEV, ENXIO, SysError } from './errno.js';
import { MAC_BYTES } from './net-address.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd } from './units.js';

/** The bytes of ifr_name; a name has at most one less. */
const IFNAMSIZ = 16;

/** struct ifreq { char ifr_name[16]; union { ... 24 bytes }; } */
const IFREQ_SIZE = 40;
const IFR_UNION = IFNAMSIZ;

const SIOCGIFINDEX = 0x8933;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCGIFADDR = 0x8915;
const SIOCSIFADDR = 0x8916;
const SIOCGIFNETMASK = 0x891b;
const SIOCSIFNETMASK = 0x891c;
const SIOCGIFMTU = 0x8921;
const SIOCSIFMTU = 0x8922;
const SIOCSIFHWADDR = 0x8924;
const SIOCGIFHWADDR = 0x8927;

const IFF_UP = 1;

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const ARPHRD_ETHER = 1;

// struct sockaddr { sa_family_t family; char data[14]; }: in a sockaddr_in the address follows the port.
const SOCKADDR_DATA = IFR_UNION + 2;
const SOCKADDR_IN_ADDRESS = IFR_UNION + 4;

/** A struct ifreq for the interface `name`, which is short enough. */
export class InterfaceRequest {
  readonly memory = new NativeBuffer(IFREQ_SIZE);

  constructor(name: string) {
    const bytes = Buffer.from(name);
    if (bytes.length >= IFNAMSIZ) throw new RangeError(`interface name of ${bytes.length} bytes: ${name}`);
    this.memory.bytes.set(bytes);
  }

  /** The name that the kernel has put in. */
  get name(): string {
    const { bytes } = this.memory;
    return Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString();
  }

  setFlags(flags: number): void {
    this.memory.bytes.fill(0, IFR_UNION);
    this.memory.view.setUint16(IFR_UNION, flags, true);
  }
}

/** Asks about and changes one interface of the network namespace that it was made in. `close` it. */
export class NetInterface implements Disposable {
  readonly name: string;
  private readonly socket: Fd;

  /** Throws SysError when no socket can be made. Whether there is such an interface is not asked yet. */
  constructor(name: string) {
    this.name = name;
    this.socket = check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket AF_INET') as Fd;
  }

  exists(): boolean {
    const request = new InterfaceRequest(this.name);
    if (libc.ioctl(this.socket, SIOCGIFINDEX, request.memory.address) === 0) return true;
    const errno = lastErrno();
    if (errno !== ENODEV && errno !== ENXIO) throw new SysError('ioctl SIOCGIFINDEX', errno, this.name);
    return false;
  }

  get mtu(): number {
    return this.get(SIOCGIFMTU, 'SIOCGIFMTU').view.getInt32(IFR_UNION, true);
  }

  /** Throws SysError (EINVAL: not within what the interface can do), as everything below does. */
  setMtu(mtu: number): void {
    if (this.mtu === mtu) return;
    this.set(SIOCSIFMTU, 'SIOCSIFMTU', ({ view }) => {
      view.setInt32(IFR_UNION, mtu, true);
    });
  }

  get mac(): Uint8Array {
    return this.get(SIOCGIFHWADDR, 'SIOCGIFHWADDR').bytes.slice(SOCKADDR_DATA, SOCKADDR_DATA + MAC_BYTES);
  }

  setMac(mac: Uint8Array): void {
    if (Buffer.from(mac).equals(this.mac)) return;
    this.set(SIOCSIFHWADDR, 'SIOCSIFHWADDR', ({ view, bytes }) => {
      view.setUint16(IFR_UNION, ARPHRD_ETHER, true);
      bytes.set(mac, SOCKADDR_DATA);
    });
  }

  /** The IPv4 address, the first if there are several; `undefined` when there is none. */
  get address(): Uint8Array | undefined {
    return this.inet(SIOCGIFADDR, 'SIOCGIFADDR');
  }

  get netmask(): Uint8Array | undefined {
    return this.inet(SIOCGIFNETMASK, 'SIOCGIFNETMASK');
  }

  /** The IPv4 address and its mask, in place of the first that there is. */
  setAddress(address: Uint8Array, netmask: Uint8Array): void {
    const change = (request: number, call: string, value: Uint8Array): void => {
      this.set(request, call, ({ view, bytes }) => {
        view.setUint16(IFR_UNION, AF_INET, true);
        bytes.set(value, SOCKADDR_IN_ADDRESS);
      });
    };
    if (!same(this.address, address)) change(SIOCSIFADDR, 'SIOCSIFADDR', address);
    if (!same(this.netmask, netmask)) change(SIOCSIFNETMASK, 'SIOCSIFNETMASK', netmask);
  }

  get isUp(): boolean {
    return (this.flags & IFF_UP) !== 0;
  }

  bringUp(): void {
    const { flags } = this;
    if ((flags & IFF_UP) !== 0) return;
    this.set(SIOCSIFFLAGS, 'SIOCSIFFLAGS', ({ view }) => {
      view.setUint16(IFR_UNION, flags | IFF_UP, true);
    });
  }

  [Symbol.dispose](): void {
    close(this.socket);
  }

  private get flags(): number {
    return this.get(SIOCGIFFLAGS, 'SIOCGIFFLAGS').view.getUint16(IFR_UNION, true);
  }

  private inet(request: number, call: string): Uint8Array | undefined {
    const { memory } = new InterfaceRequest(this.name);
    memory.view.setUint16(IFR_UNION, AF_INET, true);
    if (libc.ioctl(this.socket, request, memory.address) === 0) {
      return memory.bytes.slice(SOCKADDR_IN_ADDRESS, SOCKADDR_IN_ADDRESS + 4);
    }
    const errno = lastErrno();
    if (errno !== EADDRNOTAVAIL) throw new SysError(`ioctl ${call}`, errno, this.name);
    return undefined;
  }

  private get(request: number, call: string): NativeBuffer {
    const { memory } = new InterfaceRequest(this.name);
    check(libc.ioctl(this.socket, request, memory.address), `ioctl ${call}`, this.name);
    return memory;
  }

  private set(request: number, call: string, fill: (memory: NativeBuffer) => void): void {
    const { memory } = new InterfaceRequest(this.name);
    fill(memory);
    check(libc.ioctl(this.socket, request, memory.address), `ioctl ${call}`, this.name);
  }
}

function same(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && Buffer.from(a).equals(b);
}
