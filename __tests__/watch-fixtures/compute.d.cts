export declare function compute(ms: number): number;
