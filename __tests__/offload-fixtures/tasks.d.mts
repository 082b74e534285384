export function double(n: number): number;
export function count(): number;
export function where(): { isWorker: boolean; pid: number; ready: boolean };
export function thrice(n: number): number;
export const text: string;
export default function byDefault(): string;
export function report(to: number): void;
export function untilAborted(): Promise<{ pid: number; code: unknown }>;
export function spin(): never;
