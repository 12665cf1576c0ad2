// y = min(max(round(x * multiplier / 2^shift), LOW), HIGH): an accumulator becomes a code.
// Combinational. x is signed, the multiplier unsigned, any shift of SHIFT_BITS bits is exact.
// A pure shift is MULTIPLIER_BITS = 1 with multiplier 1; an activation function narrows LOW and HIGH.
`include "parameters.vh"

module requantizer #(
    parameter IN_BITS = `ACCELERATOR_ACCUMULATOR_BITS,
    parameter MULTIPLIER_BITS = `ACCELERATOR_MULTIPLIER_BITS,
    parameter SHIFT_BITS = 6,
    parameter OUT_BITS = `ACCELERATOR_ACTIVATION_BITS,
    parameter OUT_SIGNED = 0,
    parameter signed [32:0] LOW = OUT_SIGNED ? -(33'sd1 << (OUT_BITS - 1)) : 33'sd0,
    parameter signed [32:0] HIGH = (33'sd1 << (OUT_SIGNED ? OUT_BITS - 1 : OUT_BITS)) - 33'sd1,
    // 0 half away, 1 half even, 2 half up, 3 floor, 4 toward zero
    parameter ROUNDING = `ACCELERATOR_ROUNDING
) (
    input signed [IN_BITS-1:0] x,
    input [MULTIPLIER_BITS-1:0] multiplier,
    input [SHIFT_BITS-1:0] shift,
    output [OUT_BITS-1:0] y,
    output saturated
);
    localparam PRODUCT_BITS = IN_BITS + MULTIPLIER_BITS + 1;
    // Wide enough for the weight of one half at the largest shift, and for the limits.
    localparam LEAST_BITS = (1 << SHIFT_BITS) > 34 ? (1 << SHIFT_BITS) : 34;
    localparam BITS = PRODUCT_BITS > LEAST_BITS ? PRODUCT_BITS : LEAST_BITS;

    wire signed [BITS-1:0] factor = $signed({1'b0, multiplier});
    wire signed [BITS-1:0] product = x * factor;
    wire signed [BITS-1:0] quotient = product >>> shift;

    wire [BITS-1:0] one = 1;
    wire [BITS-1:0] half_weight = (one << shift) >> 1;
    wire [BITS-1:0] rest = product & ((one << shift) - one);
    wire half = |(rest & half_weight);
    wire below = |(rest & ~half_weight);
    wire negative = product[BITS-1];

    wire up = ROUNDING == 0 ? half & (below | ~negative)
            : ROUNDING == 1 ? half & (below | quotient[0])
            : ROUNDING == 2 ? half
            : ROUNDING == 3 ? 1'b0
            : negative & (half | below);

    wire signed [BITS-1:0] rounded = quotient + $signed({1'b0, up});
    wire too_low = rounded < LOW;
    wire too_high = rounded > HIGH;
    assign y = too_low ? LOW[OUT_BITS-1:0] : too_high ? HIGH[OUT_BITS-1:0] : rounded[OUT_BITS-1:0];
    assign saturated = too_low | too_high;
endmodule
