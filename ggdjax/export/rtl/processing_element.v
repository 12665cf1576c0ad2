// acc = bias + sum of x * weight: LANES products per clock.
// A tile of input channels takes one or more clocks; `first` is high in the first clock of an output value, `last` in
// the last clock of every tile. The policy limits the accumulator once per tile, when the tile's sum is added to it.
`include "parameters.vh"

`define LANE_PRODUCT(i) \
    $signed({X_SIGNED ? xs[(i)*X_BITS+X_BITS-1] : 1'b0, xs[(i)*X_BITS+:X_BITS]}) \
    * $signed(ws[(i)*WEIGHT_BITS+:WEIGHT_BITS])

module processing_element #(
    parameter LANES = 16,
    parameter X_BITS = `ACCELERATOR_ACTIVATION_BITS,
    parameter X_SIGNED = 0,
    parameter WEIGHT_BITS = `ACCELERATOR_WEIGHT_BITS,
    // Must hold the sum of one tile.
    parameter PARTIAL_BITS = 32,
    parameter ACCUMULATOR_BITS = `ACCELERATOR_ACCUMULATOR_BITS,
    parameter SATURATE = `ACCELERATOR_SATURATE
) (
    input clk,
    input enable,
    input first,
    input last,
    input [LANES*X_BITS-1:0] x,
    input [LANES*WEIGHT_BITS-1:0] weights,
    input signed [ACCUMULATOR_BITS-1:0] bias,
    output reg signed [ACCUMULATOR_BITS-1:0] acc,
    // High for one clock after a sum that the accumulator could not hold.
    output reg overflow
);
    localparam SUM_BITS = (PARTIAL_BITS > ACCUMULATOR_BITS ? PARTIAL_BITS : ACCUMULATOR_BITS) + 1;

    // Products are written out in groups of eight: event-driven simulators are slow in loops over part selects.
    localparam GROUPS = (LANES + 7) / 8;
    wire [8*GROUPS*X_BITS-1:0] xs = x;
    wire [8*GROUPS*WEIGHT_BITS-1:0] ws = weights;
    wire [GROUPS*PARTIAL_BITS-1:0] parts;
    reg signed [PARTIAL_BITS-1:0] dot;
    reg signed [PARTIAL_BITS-1:0] partial;
    integer k;

    genvar g;
    generate
        for (g = 0; g < GROUPS; g = g + 1) begin : lanes
            reg signed [PARTIAL_BITS-1:0] part;
            always @* part = `LANE_PRODUCT(8 * g) + `LANE_PRODUCT(8 * g + 1) + `LANE_PRODUCT(8 * g + 2)
                + `LANE_PRODUCT(8 * g + 3) + `LANE_PRODUCT(8 * g + 4) + `LANE_PRODUCT(8 * g + 5)
                + `LANE_PRODUCT(8 * g + 6) + `LANE_PRODUCT(8 * g + 7);
            assign parts[g*PARTIAL_BITS+:PARTIAL_BITS] = part;
        end
    endgenerate

    always @* begin
        dot = {PARTIAL_BITS{1'b0}};
        for (k = 0; k < GROUPS; k = k + 1) dot = dot + $signed(parts[k*PARTIAL_BITS+:PARTIAL_BITS]);
    end

    wire signed [PARTIAL_BITS-1:0] sum = first ? dot : partial + dot;
    wire signed [ACCUMULATOR_BITS-1:0] base = first ? bias : acc;
    wire signed [SUM_BITS-1:0] total = base + sum;
    wire signed [ACCUMULATOR_BITS-1:0] wrapped = total[ACCUMULATOR_BITS-1:0];
    wire over = wrapped != total;
    wire signed [ACCUMULATOR_BITS-1:0] nearest = {total[SUM_BITS-1], {(ACCUMULATOR_BITS - 1) {~total[SUM_BITS-1]}}};

    always @(posedge clk) begin
        if (enable) begin
            partial <= last ? {PARTIAL_BITS{1'b0}} : sum;
            acc <= !last ? base : (SATURATE && over) ? nearest : wrapped;
            overflow <= last & over;
        end
    end
endmodule

`undef LANE_PRODUCT
