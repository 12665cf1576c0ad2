// sum = x + y (or x - y) of two branches on one grid, exact, and its code. Combinational.
// The branches reach their common grid through requantizers of their own.
`include "parameters.vh"

module residual_adder #(
    parameter SUBTRACT = 0,
    parameter X_BITS = `ACCELERATOR_CARRY_BITS,
    parameter MULTIPLIER_BITS = `ACCELERATOR_MULTIPLIER_BITS,
    parameter SHIFT_BITS = 6,
    parameter OUT_BITS = `ACCELERATOR_ACTIVATION_BITS,
    parameter OUT_SIGNED = 0,
    parameter signed [32:0] LOW = OUT_SIGNED ? -(33'sd1 << (OUT_BITS - 1)) : 33'sd0,
    parameter signed [32:0] HIGH = (33'sd1 << (OUT_SIGNED ? OUT_BITS - 1 : OUT_BITS)) - 33'sd1,
    parameter ROUNDING = `ACCELERATOR_ROUNDING
) (
    input signed [X_BITS-1:0] x,
    input signed [X_BITS-1:0] y,
    input [MULTIPLIER_BITS-1:0] multiplier,
    input [SHIFT_BITS-1:0] shift,
    output signed [X_BITS:0] sum,
    output [OUT_BITS-1:0] code,
    output saturated
);
    assign sum = SUBTRACT ? x - y : x + y;

    requantizer #(
        .IN_BITS(X_BITS + 1),
        .MULTIPLIER_BITS(MULTIPLIER_BITS),
        .SHIFT_BITS(SHIFT_BITS),
        .OUT_BITS(OUT_BITS),
        .OUT_SIGNED(OUT_SIGNED),
        .LOW(LOW),
        .HIGH(HIGH),
        .ROUNDING(ROUNDING)
    ) to_code (
        .x(sum),
        .multiplier(multiplier),
        .shift(shift),
        .y(code),
        .saturated(saturated)
    );
endmodule
